"""The configuration says which endpoint serves the space, and nothing that contradicts itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.config import Config, Privacy, load_config
from schemas.errors import BadConfig
from transforms.embedders.models import space_of

MODEL = """
[model]
integration = "main"
name = "text-embedding-3-small"
dimensions = 512
max_tokens = 1024
"""
MAIN = """
[[integrations]]
name = "main"
provider = "openai"
model = "text-embedding-3-small"
api_key = "env:OPENAI_KEY"
"""


def load(folder: Path, text: str) -> Config:
    path = folder / "headrace.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(path)


def test_a_model_with_an_integration_is_external_and_its_space_is_what_the_file_says(tmp_path: Path) -> None:
    config = load(tmp_path, MODEL + MAIN)
    assert not config.model.is_local
    assert Privacy().redacts("acme", config.model)
    space = space_of(config.model)
    assert (space.model, space.dimensions, space.max_tokens) == ("text-embedding-3-small", 512, 1024)
    assert (space.normalize, space.precision, space.document_prefix) == (True, "exact", "")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("512", "1536"),
        ("1024", "512"),
        ("3-small", "3-large"),
        ("max_tokens", 'query_prefix = "q: "\nmax_tokens'),
    ],
)
def test_whatever_moves_vectors_is_another_space(tmp_path: Path, before: str, after: str) -> None:
    changed = space_of(load(tmp_path, MODEL.replace(before, after, 1)).model)
    assert changed.space_id != space_of(load(tmp_path, MODEL).model).space_id


def test_another_endpoint_of_the_same_weights_is_the_same_space(tmp_path: Path) -> None:
    here = space_of(load(tmp_path, MODEL + MAIN).model)
    there = space_of(load(tmp_path, MODEL.replace('"main"', '"spare"')).model)
    assert here.space_id == there.space_id


MISTAKES = {
    "a space that is not said": (MODEL.replace("dimensions = 512\n", ""), "give dimensions"),
    "an engine of this machine": (MODEL + 'engine = "onnx"\n', "engine is of engines that run here"),
    "a precision of this machine": (MODEL + 'precision = "fast"\n', "precision is of engines"),
    "other weights": (MODEL.replace("3-small", "3-large") + MAIN, "serves the weights"),
    "other dimensions": (MODEL + MAIN + "dimensions = 256\n", "gives 256 dimensions, the space has 512"),
    "two of one name": (MODEL + MAIN + MAIN, "main stands twice"),
    "a literal key": (MAIN.replace("env:OPENAI_KEY", "sk-123"), "expected a reference"),
    "no key": (MAIN.replace('api_key = "env:OPENAI_KEY"\n', ""), "needs api_key"),
    "a gateway nowhere": (MAIN.replace('"openai"', '"gateway"'), "give url"),
    "a price without its day": (MAIN + "price_usd_per_million_tokens = 0.02\n", "price_as_of"),
    "a password in the address": (MAIN + 'url = "https://me:secret@example.org"\n', "url"),
    "itself as its fallback": (MAIN + 'fallback = "main"\n', "names the integration itself"),
    "an unknown option": (MAIN + "timeout = 3\n", "options here are name, provider"),
    "an unknown option of performance": (MAIN + "performance.timeout = 3\n", "options here are timeout_s"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_that_says_what_to_write(tmp_path: Path, mistake: str) -> None:
    text, said = MISTAKES[mistake]
    with pytest.raises(BadConfig) as raised:
        load(tmp_path, text)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "sk-123" not in str(raised.value)
    assert "secret@" not in str(raised.value)
