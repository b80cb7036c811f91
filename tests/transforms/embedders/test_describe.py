"""`headrace models` says what would run, without fetching or loading it."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.config import Model
from schemas.errors import BadConfig, ModelNotFound
from tests.transforms.embedders.tiny_models import write_encoder, write_model
from transforms.embedders import models
from transforms.embedders.choice import choose_engine
from transforms.embedders.describe import describe_models
from transforms.embedders.fetch import PlaceError
from transforms.embedders.models import space_of
from transforms.embedders.registry import MINILM


@pytest.fixture(autouse=True)
def nothing_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise PlaceError("describing must not fetch")

    for name in ("fetch_from_package_index", "fetch_from_hub", "fetch_repository"):
        monkeypatch.setattr(models, name, refuse)
    monkeypatch.setattr(models, "hub_cache", lambda: tmp_path / "hub")
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))


def test_a_pinned_model_is_known_before_it_is_here() -> None:
    [row] = describe_models(Model(threads=3))
    assert (row["name"], row["configured"], row["found"], row["threads"]) == (MINILM.name, True, None, 3)
    assert (row["dimensions"], row["max_tokens"], row["download_mb"]) == (384, 256, 84)
    assert row["space_id"] == space_of(Model()).space_id


def test_engine_and_reason_are_those_that_would_be_chosen() -> None:
    model = Model(engine="onnx", threads=1)
    [row] = describe_models(model)
    chosen = choose_engine(model)
    assert (row["engine"], row["arithmetic"], row["why"]) == (chosen.engine, chosen.arithmetic, chosen.why)


def test_a_folder_is_described_by_its_files_beside_the_pinned_models(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "tiny", prompts={"query": "query: "})
    model = Model(name="tiny/bert", folder=folder, max_tokens=20)
    configured, other = describe_models(model)
    assert (configured["found"], configured["configured"]) == (str(folder), True)
    assert (configured["dimensions"], configured["max_tokens"], configured["query_prefix"]) == (
        24,
        20,
        "query: ",
    )
    assert configured["space_id"] == space_of(model).space_id
    assert (other["name"], other["configured"]) == (MINILM.name, False)


def test_what_only_its_files_can_say_of_a_model_is_left_open_until_they_are_here() -> None:
    row = describe_models(Model(name="tiny/elsewhere"))[0]
    assert (row["found"], row["space_id"], row["dimensions"], row["download_mb"]) == (None, None, None, None)
    assert row["engine"] == choose_engine(Model()).engine


def test_a_bad_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"lacks config\.json"):
        describe_models(Model(name="tiny/bert", folder=tmp_path))
    folder = write_encoder(tmp_path / "other", model_type="modernbert")
    with pytest.raises(BadConfig, match="found model_type 'modernbert'"):
        describe_models(Model(name="tiny/bert", folder=folder))


def test_a_remote_model_is_not_looked_for_here() -> None:
    model = Model(integration="main", name="text-embedding-3-small", dimensions=512, max_tokens=1024)
    row, *others = describe_models(model)
    assert (row["name"], row["engine"], row["why"]) == (
        "text-embedding-3-small",
        "remote",
        "integration main",
    )
    assert (row["found"], row["dimensions"], row["space_id"]) == (None, 512, space_of(model).space_id)
    assert all(not other["configured"] and other["engine"] != "remote" for other in others)
