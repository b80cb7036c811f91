"""The graphs give what transformers' own classes give, for every family, up to the last position."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.config import Model
from tests.transforms.embedders.tiny_models import FAMILIES, settings, write_json, write_tokenizer
from transforms.embedders.base import TokenIds, Vectors
from transforms.embedders.encoder import relative_bucket
from transforms.embedders.loading import load_engine, load_tokenizer
from transforms.embedders.tokenizer import cut

torch = pytest.importorskip(
    "torch", reason="the reference needs the [torch] extra: pip install 'headrace[torch]'"
)
transformers = pytest.importorskip(
    "transformers", reason="the reference needs the [torch] extra: pip install 'headrace[torch]'"
)

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]

POSITIONS = 300
TOLERANCE = 1e-5


def reference_model(family: str) -> Any:
    """transformers' class with random weights, spread so that attention is not flat."""
    if family == "distilbert":
        its = {"dim": 24, "n_layers": 2, "n_heads": 3, "hidden_dim": 40, "vocab_size": 90}
        config = transformers.DistilBertConfig(
            **its, max_position_embeddings=POSITIONS, initializer_range=0.3
        )
    else:
        first = 0 if family == "bert" else 2
        config = transformers.AutoConfig.for_model(
            **settings(family, max_position_embeddings=POSITIONS + first, initializer_range=0.3)
        )
    torch.manual_seed(5)
    return transformers.AutoModel.from_config(config, attn_implementation="eager").eval()


def inputs() -> list[TokenIds]:
    random = np.random.default_rng(1)
    return [random.integers(5, 80, length).astype(np.int32) for length in (1, 17, 150, POSITIONS)]


def reference_vectors(model: Any, pooling: str) -> Vectors:
    rows = []
    for ids in inputs():
        with torch.no_grad():
            hidden = model(torch.from_numpy(ids.astype(np.int64))[None]).last_hidden_state[0]
        rows.append((hidden[0] if pooling == "cls" else hidden.mean(dim=0)).numpy())
    return np.stack(rows)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("family", [*FAMILIES, "camembert", "distilbert"])
def test_vectors_are_those_of_transformers(tmp_path: Path, family: str, pooling: str) -> None:
    reference = reference_model(family)
    reference.save_pretrained(tmp_path)
    write_tokenizer(tmp_path / "tokenizer.json")
    write_json(tmp_path / "modules.json", [
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ])  # fmt: skip
    write_json(tmp_path / "1_Pooling" / "config.json", {"pooling_mode": pooling})
    engine = load_engine(Model(name=f"tiny/{family}", folder=tmp_path, engine="onnx", threads=1))
    assert engine.space.max_tokens == POSITIONS
    difference = np.abs(engine.run(inputs()) - reference_vectors(reference, pooling)).max()
    print(f"{family} {pooling}: largest difference {difference:.2e}")
    assert difference < TOLERANCE


def test_relative_buckets_are_those_of_mpnet() -> None:
    places = torch.arange(600)
    distances = (places[None, :] - places[:, None]).numpy()
    encoder = transformers.models.mpnet.modeling_mpnet.MPNetEncoder
    expected = encoder.relative_position_bucket(torch.from_numpy(distances), num_buckets=32)
    assert np.array_equal(relative_bucket(distances, 32), expected.numpy())


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_folder_that_sentence_transformers_saved_gives_its_vectors(tmp_path: Path, pooling: str) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    saved, raw = tmp_path / "saved", tmp_path / "raw"
    reference_model("bert").save_pretrained(raw)
    write_tokenizer(tmp_path / "tokenizer.json")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"), pad_token="[PAD]", unk_token="[UNK]"
    )
    tokenizer.save_pretrained(raw)
    modules = pytest.importorskip("sentence_transformers.models")
    sentence_transformers.SentenceTransformer(
        modules=[
            modules.Transformer(str(raw), max_seq_length=24),
            modules.Pooling(24, pooling_mode=pooling),
            modules.Normalize(),
        ],
        prompts={"query": "query: ", "document": "passage: "},
        device="cpu",
    ).save(str(saved))
    reference = sentence_transformers.SentenceTransformer(str(saved), device="cpu", truncate_dim=16)
    texts = ["pump stalls", "the gate, the water: " * 9, "a-1"]
    model = Model(name="tiny/saved", folder=saved, engine="onnx", dimensions=16, threads=1)
    engine, space = load_engine(model), load_engine(model).space
    assert (space.pooling, space.normalize, space.max_tokens) == (pooling, True, 24)
    for prefix, encode in (
        (space.query_prefix, reference.encode_query),
        (space.document_prefix, reference.encode_document),
    ):
        ids = [cut(ids, 24) for ids in load_tokenizer(model).encode([prefix + text for text in texts])]
        expected = encode(texts, normalize_embeddings=True)
        assert np.abs(engine.run(ids) - expected).max() < TOLERANCE
