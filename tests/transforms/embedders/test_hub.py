"""A model by its name on the Hugging Face hub: fetched once, only what is needed, and never half of it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from schemas.config import Model
from schemas.errors import BadConfig, ModelNotFound
from tests.transforms.embedders.tiny_models import write_json, write_model
from transforms.embedders import models
from transforms.embedders.loading import load_engine, load_tokenizer
from transforms.embedders.models import find_model, locate_model, space_of

REPOSITORY = "tiny/model"
REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """The files of one repository over HTTP, as the hub serves them."""

    files: dict[str, bytes]
    stated: dict[str, str] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)

    def listing(self) -> bytes:
        siblings = [self._entry(name, content) for name, content in self.files.items()]
        return json.dumps({"id": REPOSITORY, "sha": REVISION, "siblings": siblings}).encode()

    def _entry(self, name: str, content: bytes) -> dict[str, object]:
        entry: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": "0" * 40}
        if name in self.stated:
            entry["lfs"] = {"sha256": self.stated[name], "size": len(content), "pointerSize": 1}
        return entry

    def answer(self, path: str) -> bytes | None:
        if path == "/":
            return b""
        if path.startswith("/api/models/"):
            return self.listing() if path.startswith(f"/api/models/{REPOSITORY}") else None
        return self.files.get(path.removeprefix(f"/{REPOSITORY}/resolve/{REVISION}/"))


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._send(with_body=False)

        def do_GET(self) -> None:
            self._send(with_body=True)

        def _send(self, with_body: bool) -> None:
            path = urlsplit(self.path).path
            content = hub.answer(path)
            self.send_response(200 if content is not None else 404)
            if content is None:
                self.send_header("X-Error-Code", "RepoNotFound")
            else:
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", REVISION)
                if path.startswith("/api/"):
                    self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            if with_body and content is not None:
                self.wfile.write(content)
                if "/resolve/" in path:
                    hub.fetched.append(path.removeprefix(f"/{REPOSITORY}/resolve/{REVISION}/"))

        def log_message(self, *_: object) -> None:
            return

    return Handler


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on loopback with a tiny model, and nothing in any cache."""
    from huggingface_hub import constants

    folder = write_model(tmp_path / "original", pooling="cls", prompts={"query": "query: "})
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    weights = files["model.safetensors"]
    served = Hub(
        files | {"README.md": b"# tiny", "tf_model.h5": b"x" * 100, "onnx/model.onnx": b"x"},
        {"model.safetensors": hashlib.sha256(weights).hexdigest()},
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(served))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, endpoint)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(models, "hub_cache", lambda: tmp_path / "hub")
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    yield served
    server.shutdown()
    server.server_close()
    thread.join()


MODEL = Model(name=REPOSITORY, engine="onnx", threads=1)


def test_a_model_comes_from_the_hub_once_and_is_run(hub: Hub, tmp_path: Path) -> None:
    space = space_of(MODEL)
    assert (space.pooling, space.query_prefix) == ("cls", "query: ")
    assert space.weights_sha256 == hub.stated["model.safetensors"]
    once = list(hub.fetched)
    assert sorted(once) == sorted(set(hub.files) - {"README.md", "tf_model.h5", "onnx/model.onnx"})
    assert load_engine(MODEL).run(load_tokenizer(MODEL).encode(["gate"])).shape == (1, 24)
    assert find_model(MODEL, tmp_path / "cache") == locate_model(MODEL, tmp_path / "cache")
    assert hub.fetched == once


def test_the_same_files_in_a_folder_are_the_same_space(hub: Hub, tmp_path: Path) -> None:
    assert space_of(MODEL) == space_of(Model(name=REPOSITORY, folder=tmp_path / "original"))


def test_a_download_that_is_not_what_the_hub_states_is_not_kept(hub: Hub, tmp_path: Path) -> None:
    hub.stated["model.safetensors"] = "0" * 64
    with pytest.raises(ModelNotFound, match=r"sent model\.safetensors with sha256 .*, expected 0000"):
        space_of(MODEL)
    assert find_model(MODEL, tmp_path / "cache") is None
    assert not list((tmp_path / "cache" / "models").iterdir())


def test_a_repository_without_usable_weights_says_what_it_lacks(hub: Hub) -> None:
    for name in ("model.safetensors", "onnx/model.onnx"):
        del hub.files[name]
    with pytest.raises(ModelNotFound, match=r"its repository lacks model\.safetensors or onnx/model\.onnx"):
        space_of(MODEL)


@pytest.mark.parametrize("name", ["tiny/other", "not/a/name", "all mini"])
def test_a_name_that_no_model_has_is_one_line_with_the_pinned_ones(hub: Hub, name: str) -> None:
    with pytest.raises(
        ModelNotFound, match=r"Hugging Face hub: .*correct model\.name.*all-MiniLM-L6-v2"
    ) as caught:
        space_of(Model(name=name))
    assert "\n" not in str(caught.value)


def test_a_download_of_the_hubs_own_library_is_used_if_it_has_the_pooling(hub: Hub, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--tiny--model"
    older = write_model(repository / "snapshots" / "aa", max_seq_length=16)
    current = write_model(repository / "snapshots" / "bb")
    partly = write_model(repository / "snapshots" / "00")
    (partly / "modules.json").unlink()
    assert locate_model(MODEL, tmp_path / "cache") == older
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("bb")
    assert locate_model(MODEL, tmp_path / "cache") == current
    assert not hub.fetched


def test_a_bare_encoder_on_the_hub_is_pooled_as_its_library_would(hub: Hub) -> None:
    for name in ("modules.json", "1_Pooling/config.json"):
        del hub.files[name]
    assert (space_of(MODEL).pooling, space_of(MODEL).normalize) == ("mean", False)


def test_a_copy_that_lost_a_file_is_fetched_again(hub: Hub, tmp_path: Path) -> None:
    folder = locate_model(MODEL, tmp_path / "cache")
    (folder / "tokenizer.json").unlink()
    assert locate_model(MODEL, tmp_path / "cache") == folder
    assert (folder / "tokenizer.json").is_file()


def test_a_file_that_makes_no_sense_is_said_and_not_fetched_for_ever(hub: Hub, tmp_path: Path) -> None:
    write_json(
        tmp_path / "bad.json", {"hidden_size": 24, "model_type": "modernbert", "max_position_embeddings": 8}
    )
    hub.files["config.json"] = (tmp_path / "bad.json").read_bytes()
    for _ in range(2):
        with pytest.raises(BadConfig, match="modernbert"):
            space_of(MODEL)
    assert hub.fetched.count("model.safetensors") == 1
