"""headrace's vectors are those of sentence-transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
import pytest

from schemas.config import Model
from transforms.embedders.base import Engine, Tokenizer, Vectors
from transforms.embedders.batching import embed_all
from transforms.embedders.canary import cosine
from transforms.embedders.loading import load_engine, load_tokenizer
from transforms.embedders.models import default_cache_dir, locate_model
from transforms.embedders.tokenizer import cut

pytest.importorskip("torch", reason="the reference needs the [torch] extra: pip install 'headrace[torch]'")
sentence_transformers = pytest.importorskip(
    "sentence_transformers", reason="the reference needs the [torch] extra: pip install 'headrace[torch]'"
)

pytestmark = [
    pytest.mark.torch,
    pytest.mark.slow,
    pytest.mark.shared_data,
    pytest.mark.filterwarnings("default"),
]

LOWEST_COSINE = 0.9999
LOWEST_SPEARMAN = 0.865


@pytest.fixture(scope="module")
def pairs(shared_data: Path) -> list[dict[str, object]]:
    """The development split of the STS benchmark."""
    path = shared_data / "retrieval" / "stsb_en_dev.jsonl"
    if not path.exists():
        pytest.skip(f"sentence pairs are not there: {path} does not exist")
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(folder=locate_model(Model(), default_cache_dir()))


def ours(engine: Engine, tokenizer: Tokenizer, texts: list[str]) -> Vectors:
    ids = [cut(ids, engine.space.max_tokens) for ids in tokenizer.encode(texts)]
    result = embed_all(engine, ids, 2048)
    assert not result.failed
    return result.vectors


def reference(model: Model, texts: list[str]) -> Vectors:
    encoder = sentence_transformers.SentenceTransformer(str(model.folder), device="cpu").float()
    encoder.max_seq_length = 256
    vectors: Vectors = encoder.encode(texts, batch_size=32, normalize_embeddings=True)
    return vectors


def spearman(left: np.ndarray, right: np.ndarray) -> float:
    """Rank correlation; equal values share their mean rank."""

    def ranks(values: np.ndarray) -> np.ndarray:
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        ends = np.cumsum(counts)
        return (ends - (counts - 1) / 2)[inverse]

    return float(np.corrcoef(ranks(left), ranks(right))[0, 1])


def test_vectors_agree_with_the_reference_and_rank_pairs_as_people_do(
    model: Model, pairs: list[dict[str, object]]
) -> None:
    firsts, seconds = ([str(pair[key]) for pair in pairs] for key in ("sentence1", "sentence2"))
    vectors = ours(load_engine(model), load_tokenizer(model), firsts + seconds)
    agreement = cosine(vectors, reference(model, firsts + seconds))
    scores = np.array([float(str(pair["score"])) for pair in pairs])
    rank = spearman(cosine(vectors[: len(pairs)], vectors[len(pairs) :]), scores)
    print(
        f"cosine to the reference: min {agreement.min():.7f} mean {agreement.mean():.7f}; Spearman {rank:.4f}"
    )
    assert agreement.min() >= LOWEST_COSINE
    assert rank >= LOWEST_SPEARMAN


def test_texts_beyond_the_limit_and_in_other_scripts_agree_too(model: Model) -> None:
    texts = [
        "pump " * 700,
        "数据库连接池" * 100,
        "",
        " ",
        "[MASK] 🚀 naïve\u200bword",
        "x" * 500,
        "a b " * 126,
    ]
    agreement = cosine(ours(load_engine(model), load_tokenizer(model), texts), reference(model, texts))
    assert agreement.min() >= LOWEST_COSINE
