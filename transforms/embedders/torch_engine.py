"""The engine for CUDA cards, and for models that only sentence-transformers knows: torch (extra `[torch]`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from schemas.errors import BadConfig, EngineFailed
from schemas.spaces import EmbeddingSpace
from schemas.usage import LOCAL
from transforms.embedders.base import EngineFacts, TokenIds, Vectors
from transforms.embedders.choice import Arithmetic
from transforms.embedders.encoder import Encoder
from transforms.embedders.padding import check_lengths
from transforms.embedders.torch_device import CUDA_STREAMS, Lanes, Target, batch_tokens, choose_target
from transforms.embedders.torch_encoder import CompiledWhenLarge, PackedEncoder, PackedTokens, pool, truncate

Network = Callable[[PackedTokens], torch.Tensor]
"""Vectors of a batch on its device, float32, (inputs, dimensions of the model)."""


class TorchEngine:
    """Implements `base.Engine`. Made in the process that uses it; safe to share between its threads.

    `encoder_engine` and `sentence_transformer_engine` make one.

    Args:
        network: on `target`'s device; gives at least `space.dimensions`.
        vocabulary: number of token ids; others are refused, for on a card they would end the process.
        space: its limit is enforced; fewer dimensions than the network's truncate its vectors.
        threads: of the CPU.
    """

    def __init__(
        self,
        network: Network,
        vocabulary: int,
        space: EmbeddingSpace,
        target: Target,
        threads: int,
        *,
        pads: bool,
    ) -> None:
        torch.set_num_threads(threads)
        self._network = network
        self._vocabulary = vocabulary
        self._target = target
        self._lanes = Lanes(target)
        self.space = space
        self.facts = EngineFacts(
            provider="local",
            engine="torch",
            version=torch.__version__,
            arithmetic=target.arithmetic,
            threads=threads,
            streams=CUDA_STREAMS if target.is_cuda else 1,
            max_batch_tokens=batch_tokens(target, space.dimensions),
            price=LOCAL,
            pads=pads,
        )

    def run(self, batch: Sequence[TokenIds]) -> Vectors:
        """Vectors of one batch, packed here: float32, (len(batch), dimensions), in the order given.

        Raises:
            EngineFailed: an input is empty, longer than the space allows or has a token the model does not have,
                or torch refused the batch or ran out of memory on it.
        """
        if not batch:
            return np.empty((0, self.space.dimensions), dtype=np.float32)
        packed = pack(batch, self.space.max_tokens)
        if packed.lowest_id < 0 or packed.highest_id >= self._vocabulary:
            raise EngineFailed(
                f"torch refused a batch of {len(batch)}: token ids from {packed.lowest_id} to "
                f"{packed.highest_id}, expected 0 to {self._vocabulary - 1}"
            )
        try:
            return self._compute(packed)
        except torch.AcceleratorError:
            raise  # the card is lost to this process: no record is to blame
        except (RuntimeError, MemoryError) as error:
            failure = EngineFailed(
                f"torch {type(error).__name__} on {len(batch)} inputs of {packed.tokens} tokens: "
                f"{str(error).partition(chr(10))[0][:300]}"
            )
        # Most often memory. Here the error is gone, and with it the tensors of the failed call.
        if self._target.is_cuda:
            torch.cuda.empty_cache()
        raise failure

    def _compute(self, packed: PackedBatch) -> Vectors:
        with self._lanes.one() as stream, torch.inference_mode():
            tokens = to_device(packed, self._target)
            vectors = self._network(tokens)
            vectors = truncate(vectors, self.space.dimensions, self.space.normalize)
            if stream is None:
                return np.asarray(vectors.numpy(), dtype=np.float32)
            host = torch.empty(vectors.shape, dtype=torch.float32, pin_memory=True)
            host.copy_(vectors, non_blocking=True)
            stream.synchronize()
            return np.array(host.numpy())


def encoder_engine(
    encoder: Encoder,
    space: EmbeddingSpace,
    threads: int,
    device: str | None = None,
    arithmetic: Arithmetic | None = None,
    compiled: bool | None = None,
) -> TorchEngine:
    """The engine of an encoder that headrace knows, free of padding.

    Args:
        device: None takes a card where there is one.
        arithmetic: None takes the fastest that keeps the promise of `space.precision`.
        compiled: large batches run through torch's compiler; None does so on a card.

    Raises:
        BadConfig: as `choose_target`, or the encoder cannot give the space's vectors.
    """
    target = choose_target(space.precision, device, arithmetic)
    shape = encoder.shape
    if space.pooling not in ("mean", "cls"):
        raise BadConfig(f"pooling {space.pooling!r}: only sentence-transformers' own modules pool so")
    if space.dimensions > shape.hidden or space.max_tokens > shape.max_positions:
        raise BadConfig(
            f"{space.model}: {shape.hidden} dimensions and {shape.max_positions} positions, its space expects at "
            f"least {space.dimensions} and {space.max_tokens}"
        )
    module = PackedEncoder(encoder, target.device, target.dtype)
    forward = CompiledWhenLarge(module) if (target.is_cuda if compiled is None else compiled) else module

    def network(batch: PackedTokens) -> torch.Tensor:
        hidden = forward(batch.ids, batch.positions, batch.rows, batch.offsets, batch.inputs, batch.longest)
        return pool(hidden, batch.offsets, space.pooling)

    return TorchEngine(network, len(encoder.words), space, target, threads, pads=False)


def sentence_transformer_engine(
    folder: Path,
    space: EmbeddingSpace,
    threads: int,
    device: str | None = None,
    arithmetic: Arithmetic | None = None,
) -> TorchEngine:
    """The engine of any other text model: a folder of sentence-transformers, run by its own modules, padded.

    The transformer computes in `arithmetic`, what comes after it (pooling, dense layers) in fp32. No code of the
    folder is executed.

    Raises:
        BadConfig: as `choose_target`; or sentence-transformers cannot load the folder, or cannot run it on token
            ids alone, or its vectors are shorter than the space's.
    """
    target = choose_target(space.precision, device, arithmetic)
    model = _load_modules(folder, target)
    pad_id = int(model.tokenizer.pad_token_id or 0)

    def network(batch: PackedTokens) -> torch.Tensor:
        features = padded_features(batch, pad_id)
        for module in model:
            features = module(features)
            if "token_embeddings" in features:
                features["token_embeddings"] = features["token_embeddings"].float()
        vectors: torch.Tensor = features["sentence_embedding"].float()
        return vectors

    vocabulary = int(model[0].auto_model.config.vocab_size)
    found = _probed_dimensions(network, target, folder)
    if found < space.dimensions:
        raise BadConfig(f"{folder}: vectors of {found} dimensions, the space expects {space.dimensions}")
    return TorchEngine(network, vocabulary, space, target, threads, pads=True)


def padded_features(batch: PackedTokens, pad_id: int) -> dict[str, torch.Tensor]:
    """What sentence-transformers' modules take: token ids and attention mask, int64 (inputs, longest)."""
    cells = batch.rows.long() * batch.longest + batch.positions
    grid = torch.full((batch.inputs * batch.longest,), pad_id, dtype=torch.int64, device=batch.ids.device)
    mask = torch.zeros_like(grid)
    grid[cells] = batch.ids.long()
    mask[cells] = 1
    square = (batch.inputs, batch.longest)
    return {"input_ids": grid.view(square), "attention_mask": mask.view(square)}


def _load_modules(folder: Path, target: Target) -> Any:
    from sentence_transformers import SentenceTransformer

    try:
        model = SentenceTransformer(str(folder), device=target.device, local_files_only=True).eval().float()
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError) as error:
        raise BadConfig(
            f"{folder}: sentence-transformers cannot load it: {str(error).partition(chr(10))[0][:300]}"
        ) from None
    if not hasattr(model[0], "auto_model"):
        raise BadConfig(f"{folder}: starts with {type(model[0]).__name__}, expected a Transformer module")
    if any(getattr(module, "include_prompt", True) is False for module in model):
        raise BadConfig(
            f"{folder}: its pooling leaves the prompt out, which is not told from the text here: choose another model"
        )
    model[0].to(target.dtype)
    return model


def _probed_dimensions(network: Network, target: Target, folder: Path) -> int:
    """Of the vectors, by running one token through."""
    probe = to_device(pack([np.zeros(1, dtype=np.int32)], 1), target)
    try:
        with torch.inference_mode():
            return int(network(probe).shape[1])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise BadConfig(
            f"{folder}: cannot be run on token ids alone: {type(error).__name__}: "
            f"{str(error).partition(chr(10))[0][:300]}"
        ) from None


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """A batch on the host, as one array that one copy takes to the device.

    Args:
        numbers: int32: token ids, positions and rows, (tokens,) each, then offsets, (inputs + 1,); as in
            `PackedTokens`.
    """

    numbers: TokenIds
    inputs: int
    tokens: int
    longest: int
    lowest_id: int
    highest_id: int


def pack(batch: Sequence[TokenIds], max_tokens: int) -> PackedBatch:
    """Inputs one after the other.

    Raises:
        EngineFailed: an input is empty, or longer than `max_tokens`.
    """
    lengths = np.array(check_lengths(batch, max_tokens), dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    tokens = int(offsets[-1])
    ids = np.concatenate(batch)
    rows = np.repeat(np.arange(len(batch), dtype=np.int32), lengths)
    positions = np.arange(tokens, dtype=np.int32) - offsets[rows]
    return PackedBatch(
        numbers=np.concatenate([ids, positions, rows, offsets], dtype=np.int32),
        inputs=len(batch),
        tokens=tokens,
        longest=int(lengths.max()),
        lowest_id=int(ids.min()),
        highest_id=int(ids.max()),
    )


def to_device(packed: PackedBatch, target: Target) -> PackedTokens:
    numbers = torch.from_numpy(packed.numbers)
    if target.is_cuda:  # from pinned memory the copy does not hold up the host
        numbers = numbers.pin_memory().to(target.device, non_blocking=True)
    tokens = packed.tokens
    ids, positions, rows, offsets = numbers.split([tokens, tokens, tokens, packed.inputs + 1])
    return PackedTokens(ids, positions, rows, offsets, packed.inputs, packed.longest)
