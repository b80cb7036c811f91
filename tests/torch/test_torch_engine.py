"""The torch engine gives the vectors of its space on every path, and refuses or recovers as its contract says."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.config import Model
from schemas.errors import BadConfig, EngineFailed
from schemas.spaces import EmbeddingSpace
from transforms.embedders.base import Engine, TokenIds, Vectors
from transforms.embedders.batching import embed_all
from transforms.embedders.canary import cosine, read_canaries
from transforms.embedders.encoder import Encoder, read_encoder
from transforms.embedders.models import default_cache_dir, locate_model, space_of
from transforms.embedders.onnx import OnnxEngine
from transforms.embedders.onnx_graph import build_graph
from transforms.embedders.tokenizer import ModelTokenizer, cut

NEEDS_EXTRA = "the torch engine needs the [torch] extra: pip install 'headrace[torch]'"
torch = pytest.importorskip("torch", reason=NEEDS_EXTRA)
sentence_transformers = pytest.importorskip("sentence_transformers", reason=NEEDS_EXTRA)
modules = pytest.importorskip("sentence_transformers.models", reason=NEEDS_EXTRA)
transformers = pytest.importorskip("transformers", reason=NEEDS_EXTRA)

from transforms.embedders import torch_device, torch_encoder, torch_engine  # noqa: E402
from transforms.embedders.torch_device import Target, batch_tokens_for, choose_target  # noqa: E402
from transforms.embedders.torch_engine import (  # noqa: E402
    TorchEngine,
    encoder_engine,
    pack,
    sentence_transformer_engine,
)

# Their own warnings of deprecations are not ours to mend.
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]

needs_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card, torch finds none")

VOCABULARY = 50
MAX_TOKENS = 24

SHAPE = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 32,
}  # fmt: skip

FAMILIES: dict[str, tuple[str, dict[str, int]]] = {
    "bert": ("Bert", {"pad_token_id": 0}),
    "roberta": ("Roberta", {"pad_token_id": 1}),
    "xlm-roberta": ("XLMRoberta", {"pad_token_id": 1}),
    "camembert": ("Camembert", {"pad_token_id": 1}),
    "distilbert": (
        "DistilBert",
        {"pad_token_id": 0, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    ),
    "mpnet": ("MPNet", {"pad_token_id": 1}),
}


def tiny_model(family: str, folder: Path) -> Any:
    """A random model of transformers, saved as the hub would have it; weights large enough to tell layers apart."""
    name, special = FAMILIES[family]
    torch.manual_seed(11)
    config = getattr(transformers, f"{name}Config")(**SHAPE, **special, initializer_range=0.4)
    model = getattr(transformers, f"{name}Model")(config).eval()
    for parameter in model.parameters():  # biases and norms start at 0 and 1, where mistakes hide
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return model


def tiny_space(**changes: Any) -> EmbeddingSpace:
    space = EmbeddingSpace(
        model="tiny", weights_sha256="0" * 64, precision="exact", pooling="mean", normalize=True, dimensions=16,
        max_tokens=MAX_TOKENS,
    )  # fmt: skip
    return replace(space, **changes)


def tiny_encoder(family: str, folder: Path) -> Encoder:
    tiny_model(family, folder)
    return read_encoder(folder / "model.safetensors", folder / "config.json")


def inputs(*lengths: int) -> list[TokenIds]:
    """Token ids that are neither padding nor special in any family."""
    rng = np.random.default_rng(5)
    return [rng.integers(5, VOCABULARY, length).astype(np.int32) for length in lengths]


MIXED = (3, 24, 1, 7, 7, 24, 12)


def reference(model: Any, batch: list[TokenIds], pooling: str) -> Vectors:
    """Vectors by transformers, one by one, so that no padding is involved."""
    with torch.inference_mode():
        tokens = [model(torch.from_numpy(ids)[None].long()).last_hidden_state[0] for ids in batch]
    pooled = [hidden.mean(0) if pooling == "mean" else hidden[0] for hidden in tokens]
    vectors: Vectors = torch.nn.functional.normalize(torch.stack(pooled), dim=1).numpy()
    return vectors


@pytest.fixture(scope="module")
def minilm() -> tuple[Path, Encoder]:
    folder = locate_model(Model(), default_cache_dir())
    return folder, read_encoder(folder / "model.safetensors", folder / "config.json")


@pytest.fixture(scope="module")
def known(minilm: tuple[Path, Encoder]) -> tuple[list[TokenIds], Vectors]:
    """The canaries' token ids, and their vectors by ONNX Runtime in fp32."""
    folder, encoder = minilm
    space = space_of(Model())
    texts = read_canaries(space.model).texts
    ids = [cut(ids, space.max_tokens) for ids in ModelTokenizer(folder / "tokenizer.json").encode(texts)]
    return ids, OnnxEngine(build_graph(encoder, "mean", True), space, 2).run(ids)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_the_vectors_of_transformers(family: str, pooling: str, tmp_path: Path) -> None:
    model = tiny_model(family, tmp_path)
    encoder = read_encoder(tmp_path / "model.safetensors", tmp_path / "config.json")
    batch = inputs(*MIXED)
    vectors = encoder_engine(encoder, tiny_space(pooling=pooling), 2, "cpu").run(batch)
    assert vectors == pytest.approx(reference(model, batch, pooling), abs=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_vector_does_not_depend_on_what_else_is_in_the_batch(family: str, tmp_path: Path) -> None:
    engine = encoder_engine(tiny_encoder(family, tmp_path), tiny_space(), 2, "cpu")
    batch = inputs(*MIXED)
    alone = np.concatenate([engine.run([ids]) for ids in batch])
    assert engine.run(batch) == pytest.approx(alone, abs=1e-5)
    # Equally long inputs need no mask, which is a path of its own.
    assert engine.run([batch[1], batch[5]]) == pytest.approx(alone[[1, 5]], abs=1e-5)


def test_vectors_come_in_the_order_given(tmp_path: Path) -> None:
    engine = encoder_engine(tiny_encoder("bert", tmp_path), tiny_space(), 2, "cpu")
    batch = inputs(*MIXED)
    assert engine.run(batch[::-1]) == pytest.approx(engine.run(batch)[::-1], abs=1e-5)


def test_the_real_model_gives_the_vectors_of_onnx_runtime(
    minilm: tuple[Path, Encoder], known: tuple[list[TokenIds], Vectors]
) -> None:
    ids, expected = known
    vectors = encoder_engine(minilm[1], space_of(Model()), 2, "cpu", "fp32").run(ids)
    assert np.abs(vectors - expected).max() < 1e-5


@pytest.mark.parametrize(
    ("arithmetic", "lowest", "mean"), [("fp16", 0.9999, 0.9999), ("bf16", 0.999, 0.9999)]
)
def test_half_precisions_keep_the_promise_of_exact(
    minilm: tuple[Path, Encoder],
    known: tuple[list[TokenIds], Vectors],
    arithmetic: Any,
    lowest: float,
    mean: float,
) -> None:
    ids, expected = known
    engine = encoder_engine(minilm[1], space_of(Model()), 2, "cpu", arithmetic)
    agreement = cosine(engine.run(ids), expected)
    assert engine.facts.arithmetic == arithmetic
    assert agreement.min() >= lowest
    assert agreement.mean() >= mean
    # What was asked for was computed: fp32 would agree to the last digits.
    assert agreement.min() < 0.9999999


def flash_in_fp32(
    query: Any, key: Any, value: Any, cu_seq_q: Any, cu_seq_k: Any, max_q: int, max_k: int
) -> Any:
    """What `varlen_attn` promises, input by input."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert max_q == max_k == int(cu_seq_q.diff().max())
    ends = cu_seq_q.tolist()
    parts = [
        torch.nn.functional.scaled_dot_product_attention(
            *(whole[start:end].transpose(0, 1)[None] for whole in (query, key, value))
        )[0].transpose(0, 1)
        for start, end in pairwise(ends)
    ]
    return torch.cat(parts)


def test_attention_by_offsets_gives_the_same_vectors_as_over_a_grid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, batch = tiny_encoder("bert", tmp_path), inputs(*MIXED)
    on_grid = encoder_engine(encoder, tiny_space(), 2, "cpu").run(batch)
    monkeypatch.setattr(torch_encoder, "varlen_attn", flash_in_fp32)
    monkeypatch.setattr(torch_encoder, "has_varlen", lambda *_: True)
    monkeypatch.setattr(torch_encoder, "attend_on_grid", None)
    assert encoder_engine(encoder, tiny_space(), 2, "cpu").run(batch) == pytest.approx(on_grid, abs=1e-5)


@pytest.mark.skipif(torch_encoder.varlen_attn is None, reason="torch has varlen_attn from 2.10")
def test_torchs_own_attention_by_offsets_takes_what_it_is_given(tmp_path: Path) -> None:
    """On tensors that have shapes and a card's name, but no card."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    names = list(inspect.signature(torch_encoder.varlen_attn).parameters)
    assert names[:7] == list(inspect.signature(flash_in_fp32).parameters)
    module = torch_encoder.PackedEncoder(tiny_encoder("bert", tmp_path), "cpu", torch.bfloat16)
    module.by_offsets = True
    cudnn = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)  # as on a card; else its version is asked for
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            weights = {
                name: torch.empty(value.shape, dtype=value.dtype, device="cuda")
                for name, value in module.state_dict().items()
            }
            ids, positions, rows = torch.empty((3, sum(MIXED)), dtype=torch.int32, device="cuda")
            offsets = torch.empty(len(MIXED) + 1, dtype=torch.int32, device="cuda")
            batch = (ids, positions, rows, offsets, len(MIXED), max(MIXED))
            hidden = torch.func.functional_call(module, weights, batch)
            assert (hidden.shape, hidden.dtype) == ((sum(MIXED), 16), torch.bfloat16)
            vectors = torch_encoder.pool(hidden, offsets, "mean")
            assert (vectors.shape, vectors.dtype, vectors.device.type) == ((7, 16), torch.float32, "cuda")
    finally:
        torch.backends.cuda.enable_cudnn_sdp(cudnn)


def test_a_relative_bias_goes_over_the_grid_even_where_offsets_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_encoder, "has_varlen", lambda *_: True)
    monkeypatch.setattr(torch_encoder, "attend_by_offsets", None)
    assert encoder_engine(tiny_encoder("mpnet", tmp_path), tiny_space(), 2, "cpu").run(inputs(3)).shape == (
        1,
        16,
    )


@pytest.mark.parametrize(
    ("device", "dtype", "width", "capability", "expected"),
    [
        ("cuda", torch.float16, 32, (9, 0), True),
        ("cuda:1", torch.bfloat16, 64, (8, 0), True),
        ("cuda", torch.float16, 32, (7, 5), False),
        ("cuda", torch.float32, 32, (9, 0), False),
        ("cuda", torch.float16, 20, (9, 0), False),
        ("cuda", torch.float16, 264, (9, 0), False),
        ("cpu", torch.float16, 32, (9, 0), False),
    ],
)
def test_offsets_need_a_half_precision_on_a_card_of_ampere_or_later(
    monkeypatch: pytest.MonkeyPatch, device: str, dtype: Any, width: int, capability: Any, expected: bool
) -> None:
    monkeypatch.setattr(torch_encoder, "varlen_attn", flash_in_fp32)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert torch_encoder.has_varlen(device, dtype, width) is expected
    monkeypatch.setattr(torch_encoder, "varlen_attn", None)
    assert not torch_encoder.has_varlen(device, dtype, width)


def test_fewer_dimensions_are_the_first_ones_of_length_one_again(tmp_path: Path) -> None:
    encoder, batch = tiny_encoder("bert", tmp_path), inputs(*MIXED)
    whole = encoder_engine(encoder, tiny_space(), 2, "cpu").run(batch)
    vectors = encoder_engine(encoder, tiny_space(dimensions=6), 2, "cpu").run(batch)
    assert vectors.shape == (len(batch), 6)
    assert cosine(vectors, whole[:, :6]).min() > 0.999999
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(len(batch)), abs=1e-6)


def test_vectors_keep_their_length_where_the_space_does_not_normalise(tmp_path: Path) -> None:
    encoder, batch = tiny_encoder("bert", tmp_path), inputs(*MIXED)
    raw = encoder_engine(encoder, tiny_space(normalize=False), 2, "cpu").run(batch)
    lengths = np.linalg.norm(raw, axis=1)
    assert not np.allclose(lengths, 1, atol=0.1)
    normal = encoder_engine(encoder, tiny_space(), 2, "cpu").run(batch)
    assert raw / lengths[:, None] == pytest.approx(normal, abs=1e-5)


def test_no_inputs_give_no_vectors(tmp_path: Path) -> None:
    engine = encoder_engine(tiny_encoder("bert", tmp_path), tiny_space(), 2, "cpu")
    assert engine.run([]).shape == (0, 16)


@pytest.mark.parametrize("length", [0, MAX_TOKENS + 1])
def test_an_input_outside_the_limit_of_the_space_is_refused(tmp_path: Path, length: int) -> None:
    engine = encoder_engine(tiny_encoder("bert", tmp_path), tiny_space(), 2, "cpu")
    with pytest.raises(EngineFailed, match=f"expected 1 to {MAX_TOKENS}"):
        engine.run(inputs(3, length))


@pytest.mark.parametrize("token", [-1, VOCABULARY])
def test_a_token_the_model_does_not_have_fails_the_call(tmp_path: Path, token: int) -> None:
    engine = encoder_engine(tiny_encoder("bert", tmp_path), tiny_space(), 2, "cpu")
    with pytest.raises(EngineFailed, match=f"refused a batch of 1.*expected 0 to {VOCABULARY - 1}"):
        engine.run([np.array([7, token], dtype=np.int32)])


def test_many_threads_may_run_at_once(tmp_path: Path) -> None:
    engine = encoder_engine(tiny_encoder("bert", tmp_path), tiny_space(), 2, "cpu")
    batches = [inputs(*MIXED)[:rows] for rows in (1, 3, 5, 7)] * 5
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(engine.run, batches))
    for batch, answer in zip(batches, answers, strict=True):
        assert answer == pytest.approx(engine.run(batch), abs=1e-5)


def with_memory_for(rows: int, encoder: Encoder, failure: Exception) -> TorchEngine:
    """An engine that fails with `failure` on more than `rows` inputs."""
    working = encoder_engine(encoder, tiny_space(), 2, "cpu")

    def network(batch: torch_encoder.PackedTokens) -> Any:
        if batch.inputs > rows:
            raise failure
        return working._network(batch)

    return TorchEngine(network, VOCABULARY, tiny_space(), Target("cpu", "fp32"), 2, pads=False)


def test_out_of_memory_halves_the_batch_until_it_fits(tmp_path: Path) -> None:
    encoder, batch = tiny_encoder("bert", tmp_path), inputs(*MIXED)
    engine = with_memory_for(
        2, encoder, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
    )
    result = embed_all(engine, batch)
    assert result.failed == {}
    assert [call.inputs for call in result.log if call.error is None] == [1, 2, 2, 2]
    assert result.vectors == pytest.approx(
        encoder_engine(encoder, tiny_space(), 2, "cpu").run(batch), abs=1e-5
    )


def test_out_of_memory_is_told_as_such_and_without_the_tensors_of_the_call(tmp_path: Path) -> None:
    engine = with_memory_for(0, tiny_encoder("bert", tmp_path), torch.OutOfMemoryError("out of memory\nmore"))
    with pytest.raises(
        EngineFailed, match=r"OutOfMemoryError on 2 inputs of 8 tokens: out of memory$"
    ) as caught:
        engine.run(inputs(3, 5))
    # An error kept as context would keep the frames of the call, and they the activations.
    assert caught.value.__context__ is None


def test_memory_of_the_card_is_given_back_once_the_failed_call_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = with_memory_for(0, tiny_encoder("bert", tmp_path), torch.OutOfMemoryError("out of memory"))
    monkeypatch.setattr(engine, "_target", Target("cuda", "fp16"))
    monkeypatch.setattr(torch_engine, "to_device", lambda packed, _: ON_CPU(packed))
    emptied: list[bool] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    with pytest.raises(EngineFailed):
        engine.run(inputs(3))
    assert emptied == [True]


def ON_CPU(packed: torch_engine.PackedBatch) -> torch_encoder.PackedTokens:  # noqa: N802
    return to_cpu(packed, Target("cpu", "fp32"))


to_cpu = torch_engine.to_device


def test_a_lost_card_stops_the_run_instead_of_failing_every_record(tmp_path: Path) -> None:
    engine = with_memory_for(
        0, tiny_encoder("bert", tmp_path), torch.AcceleratorError("CUDA error: unspecified")
    )
    with pytest.raises(torch.AcceleratorError):
        embed_all(engine, inputs(3))


def compiled_from(tokens: int, encoder: Encoder) -> tuple[Engine, torch_encoder.CompiledWhenLarge]:
    module = torch_encoder.PackedEncoder(encoder, "cpu", torch.float32)
    forward = torch_encoder.CompiledWhenLarge(module, tokens)

    def network(batch: torch_encoder.PackedTokens) -> Any:
        hidden = forward(batch.ids, batch.positions, batch.rows, batch.offsets, batch.inputs, batch.longest)
        return torch_encoder.pool(hidden, batch.offsets, "mean")

    return TorchEngine(network, VOCABULARY, tiny_space(), Target("cpu", "fp32"), 2, pads=False), forward


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_compiled_batches_of_any_shape_give_the_same_vectors(family: str, tmp_path: Path) -> None:
    encoder = tiny_encoder(family, tmp_path)
    engine, forward = compiled_from(20, encoder)
    plain = encoder_engine(encoder, tiny_space(), 2, "cpu")
    for lengths in [MIXED, (24, 20, 3), (12, 11, 10, 9), (3, 2), (24, 24), (8,) * 5]:
        batch = inputs(*lengths)
        assert engine.run(batch) == pytest.approx(plain.run(batch), abs=2e-5)
    assert forward._compiled not in (None, forward._forward)


def test_small_batches_never_start_the_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", None)
    engine, _ = compiled_from(9, tiny_encoder("bert", tmp_path))
    assert engine.run(inputs(3, 5)).shape == (2, 16)


def test_a_compiler_that_fails_is_logged_once_and_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from torch._dynamo.exc import TorchDynamoException

    def broken(forward: Callable[..., Any], dynamic: bool) -> Callable[..., Any]:
        def call(*_: Any) -> Any:
            raise TorchDynamoException("no C compiler\nmore")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    encoder = tiny_encoder("bert", tmp_path)
    engine, _ = compiled_from(1, encoder)
    with caplog.at_level(logging.WARNING):
        vectors = [engine.run(inputs(*MIXED)) for _ in range(2)]
    expected = encoder_engine(encoder, tiny_space(), 2, "cpu").run(inputs(*MIXED))
    assert vectors[0] == pytest.approx(expected, abs=1e-5)
    assert vectors[1] == pytest.approx(expected, abs=1e-5)
    assert [record.message for record in caplog.records] == [
        "torch.compile failed, running without: no C compiler"
    ]


@pytest.mark.parametrize(
    ("precision", "has_card", "has_bf16", "expected"),
    [
        ("exact", True, True, Target("cuda", "fp16")),
        ("fast", True, True, Target("cuda", "bf16")),
        ("fast", True, False, Target("cuda", "fp16")),
        ("exact", False, False, Target("cpu", "fp32")),
        ("fast", False, False, Target("cpu", "fp32")),
    ],
)
def test_a_card_is_taken_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, precision: Any, has_card: bool, has_bf16: bool, expected: Target
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_card)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda _: has_bf16)
    assert choose_target(precision) == expected
    assert choose_target(precision, "cpu", "bf16") == Target("cpu", "bf16")


def test_a_card_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadConfig, match=r"'cuda:1'.*finds no CUDA card"):
        choose_target("exact", "cuda:1")


def test_an_arithmetic_torch_does_not_compute_in_is_refused() -> None:
    with pytest.raises(BadConfig, match=r"'int8'.*fp32, bf16, fp16"):
        choose_target("fast", "cpu", "int8")


@pytest.mark.parametrize(
    ("free_gib", "dimensions", "expected"),
    [(139, 384, 65_536), (15, 768, 32_768), (3, 1024, 4096), (0, 384, 2048)],
)
def test_batches_are_as_large_as_the_memory_of_the_card_allows(
    free_gib: int, dimensions: int, expected: int
) -> None:
    assert batch_tokens_for(free_gib << 30, dimensions) == expected


@pytest.mark.parametrize("changes", [{"dimensions": 17}, {"max_tokens": 33}])
def test_a_space_the_encoder_cannot_serve_is_refused(tmp_path: Path, changes: dict[str, int]) -> None:
    with pytest.raises(BadConfig, match="16 dimensions and 32 positions"):
        encoder_engine(tiny_encoder("bert", tmp_path), tiny_space(**changes), 2, "cpu")


def test_a_pooling_the_encoder_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="'lasttoken'"):
        encoder_engine(tiny_encoder("bert", tmp_path), tiny_space(pooling="lasttoken"), 2, "cpu")


def test_the_facts_name_torch_its_threads_and_its_arithmetic(tmp_path: Path) -> None:
    facts = encoder_engine(tiny_encoder("bert", tmp_path), tiny_space(), 1, "cpu").facts
    assert (facts.engine, facts.version, facts.arithmetic) == ("torch", torch.__version__, "fp32")
    assert (facts.threads, facts.streams, facts.max_batch_tokens) == (1, 1, torch_device.CPU_BATCH_TOKENS)
    assert torch.get_num_threads() == 1
    with ThreadPoolExecutor(1) as other:
        assert other.submit(torch.get_num_threads).result() == 1


def test_a_packed_batch_says_where_each_token_belongs() -> None:
    packed = pack([np.array(ids, dtype=np.int32) for ids in ([7, 8, 9], [5], [6, 4])], MAX_TOKENS)
    assert packed.numbers.tolist() == [7, 8, 9, 5, 6, 4, 0, 1, 2, 0, 0, 1, 0, 0, 0, 1, 2, 2, 0, 3, 4, 6]
    assert (packed.inputs, packed.tokens, packed.longest) == (3, 6, 3)
    assert (packed.lowest_id, packed.highest_id) == (4, 9)


WORDS = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "pump",
    "valve",
    "gauge",
    "opens",
    "closes",
    "leaks",
    "slowly",
)


def write_sentence_transformer(folder: Path, family: str, after: Callable[[int], list[Any]]) -> Any:
    """A folder as sentence-transformers saves it, random weights; `after` gives the modules after the encoder."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    inner = folder / "encoder"
    torch.manual_seed(11)
    shape = SHAPE | {"vocab_size": len(WORDS)}
    if family == "modernbert":
        config = transformers.ModernBertConfig(
            **shape, pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3,
            initializer_range=0.4,
        )  # fmt: skip
        transformers.ModernBertModel(config).save_pretrained(inner)
    else:
        config = transformers.BertConfig(**shape, pad_token_id=0, initializer_range=0.4)
        transformers.BertModel(config).save_pretrained(inner)
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]",
    ).save_pretrained(inner)  # fmt: skip
    encoder = modules.Transformer(str(inner), max_seq_length=MAX_TOKENS)
    model = sentence_transformers.SentenceTransformer(modules=[encoder, *after(16)], device="cpu")
    model.save(str(folder / "saved"))
    return model


def pooled_densely_and_normalised(width: int) -> list[Any]:
    return [modules.Pooling(width, pooling_mode="mean"), modules.Dense(width, 12), modules.Normalize()]


def pooled_by_last_token(width: int) -> list[Any]:
    return [modules.Pooling(width, pooling_mode="lasttoken")]


SENTENCES = ["pump leaks", "valve opens slowly and the gauge leaks", "gauge", "pump pump closes slowly", ""]


@pytest.mark.parametrize(
    ("family", "after", "dimensions"),
    [
        ("modernbert", pooled_densely_and_normalised, 12),
        ("modernbert", pooled_by_last_token, 16),
        ("bert", pooled_densely_and_normalised, 12),
    ],
)
def test_other_models_give_the_vectors_of_sentence_transformers(
    family: str, after: Callable[[int], list[Any]], dimensions: int, tmp_path: Path
) -> None:
    model = write_sentence_transformer(tmp_path, family, after)
    ids = ModelTokenizer(tmp_path / "saved" / "tokenizer.json").encode(SENTENCES)
    space = tiny_space(dimensions=dimensions, pooling="other")
    engine = sentence_transformer_engine(tmp_path / "saved", space, 2, "cpu")
    expected = model.encode(SENTENCES, normalize_embeddings=True)
    assert engine.run(ids) == pytest.approx(expected, abs=2e-5)
    assert embed_all(engine, ids, 16).vectors == pytest.approx(expected, abs=2e-5)
    fewer = sentence_transformer_engine(tmp_path / "saved", replace(space, dimensions=5), 2, "cpu").run(ids)
    assert cosine(fewer, expected[:, :5]).min() > 0.999999
    half = sentence_transformer_engine(tmp_path / "saved", space, 2, "cpu", "bf16").run(ids)
    assert cosine(half, expected).min() > 0.99
    assert np.abs(half - expected).max() > 1e-4  # it was computed in what was asked for


def test_a_folder_sentence_transformers_cannot_load_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=f"{tmp_path}.*cannot load"):
        sentence_transformer_engine(tmp_path, tiny_space(), 2, "cpu")


def test_more_dimensions_than_a_model_has_are_refused(tmp_path: Path) -> None:
    write_sentence_transformer(tmp_path, "bert", pooled_densely_and_normalised)
    with pytest.raises(BadConfig, match="vectors of 12 dimensions, the space expects 16"):
        sentence_transformer_engine(tmp_path / "saved", tiny_space(), 2, "cpu")


def test_a_pooling_that_leaves_the_prompt_out_is_refused(tmp_path: Path) -> None:
    pooling = modules.Pooling
    write_sentence_transformer(tmp_path, "bert", lambda width: [pooling(width, include_prompt=False)])
    with pytest.raises(BadConfig, match="leaves the prompt out"):
        sentence_transformer_engine(tmp_path / "saved", tiny_space(), 2, "cpu")


@needs_card
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("arithmetic", ["fp32", "fp16", "bf16"])
def test_the_card_gives_the_vectors_of_the_cpu(
    minilm: tuple[Path, Encoder],
    known: tuple[list[TokenIds], Vectors],
    monkeypatch: pytest.MonkeyPatch,
    arithmetic: Any,
    compiled: bool,
) -> None:
    monkeypatch.setattr(torch_encoder.CompiledWhenLarge.__init__, "__defaults__", (1,))
    ids, expected = known
    engine = encoder_engine(minilm[1], space_of(Model()), 2, "cuda", arithmetic, compiled)
    result = embed_all(engine, ids, 512)
    assert cosine(result.vectors, expected).min() > 0.999


@needs_card
@pytest.mark.parametrize("family", FAMILIES)
def test_the_card_runs_every_family(family: str, tmp_path: Path) -> None:
    encoder, batch = tiny_encoder(family, tmp_path), inputs(*MIXED)
    expected = encoder_engine(encoder, tiny_space(), 2, "cpu").run(batch)
    assert cosine(encoder_engine(encoder, tiny_space(), 2, "cuda", "fp16").run(batch), expected).min() > 0.999


@needs_card
def test_a_batch_beyond_the_memory_of_the_card_is_halved(minilm: tuple[Path, Encoder]) -> None:
    engine = encoder_engine(minilm[1], space_of(Model()), 2, "cuda", compiled=False)
    used = torch.cuda.memory_allocated() / torch.cuda.get_device_properties(0).total_memory
    ids = [np.arange(1000 + row, 1256 + row, dtype=np.int32) for row in range(512)]
    torch.cuda.set_per_process_memory_fraction(used + 0.002)
    try:
        result = embed_all(engine, ids, 1 << 20)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert result.failed == {}
    assert any(call.error == "EngineFailed" for call in result.log)
