"""An encoder in torch without padding: the tokens of a batch lie one after the other in one row.

Everything but attention works token by token, so a batch costs what its tokens cost. Attention goes by the offsets of
the inputs where the card has such a kernel, over a padded grid elsewhere.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from transforms.embedders.encoder import Encoder, EncoderLayer, Floats, LayerNorm, Linear

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch before 2.10
    varlen_attn = None

log = logging.getLogger(__name__)

COMPILE_FROM_TOKENS = 8192
"""Tokens of a batch from which compiled kernels are worth their compilation (tens of seconds, once a process)."""

OLDEST_CARD_WITH_VARLEN = (8, 0)
"""Compute capability the flash kernels need (Ampere)."""

WIDEST_HEAD_WITH_VARLEN = 256
"""Of the flash kernels; it must be a multiple of 8 as well."""


@dataclass(frozen=True, slots=True)
class PackedTokens:
    """A batch on the device; integers are int32.

    Args:
        ids: token ids, (tokens,).
        positions: of each token in its input, from 0, (tokens,).
        rows: which input each token belongs to, (tokens,).
        offsets: where each input starts, and the end of the last, (inputs + 1,).
        inputs: number of them.
        longest: tokens of the longest input.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    rows: torch.Tensor
    offsets: torch.Tensor
    inputs: int
    longest: int


class PackedEncoder(torch.nn.Module):  # type: ignore[misc]
    """The encoder's layers; gives the last one's output.

    Args:
        device: to compute on.
        dtype: of weights and activations; LayerNorm, softmax and sums inside products are fp32 in any case.
    """

    def __init__(self, encoder: Encoder, device: str, dtype: torch.dtype) -> None:
        super().__init__()
        shape = encoder.shape
        self.heads = shape.heads
        self.epsilon = shape.epsilon
        self.words = _parameter(encoder.words)
        self.places = _parameter(encoder.positions)
        self.embedding_norm = _norm(encoder.embedding_norm, shape.epsilon)
        self.layers = torch.nn.ModuleList(_Layer(layer, shape.epsilon) for layer in encoder.layers)
        bias = encoder.relative_bias
        self.relative_bias = None if bias is None else _parameter(bias)
        self.to(device=device, dtype=dtype)
        self.by_offsets = bias is None and has_varlen(device, dtype, shape.hidden // shape.heads)

    def forward(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        rows: torch.Tensor,
        offsets: torch.Tensor,
        inputs: int,
        longest: int,
    ) -> torch.Tensor:
        """Token vectors of the last layer, (tokens, hidden); arguments as in `PackedTokens`."""
        hidden = functional.embedding(ids, self.words) + functional.embedding(positions, self.places)
        hidden = self.embedding_norm(hidden)
        cells, mask = None, None
        if not self.by_offsets:
            cells, mask = _grid(positions, rows, offsets, inputs, longest, self.relative_bias)
        for layer in self.layers:
            qkv = layer.qkv(hidden).view(len(ids), 3, self.heads, -1)
            if self.by_offsets:
                attended = attend_by_offsets(qkv, offsets, longest)
            else:
                attended = attend_on_grid(qkv, cells, inputs, longest, mask)
            hidden = layer.attention_norm(hidden + layer.attention_output(attended.flatten(1)))
            hidden = layer.output_norm(hidden + layer.down(functional.gelu(layer.up(hidden))))
        return hidden


class _Layer(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, layer: EncoderLayer, epsilon: float) -> None:
        super().__init__()
        self.qkv = _linear(layer.qkv)
        self.attention_output = _linear(layer.attention_output)
        self.attention_norm = _norm(layer.attention_norm, epsilon)
        self.up = _linear(layer.up)
        self.down = _linear(layer.down)
        self.output_norm = _norm(layer.output_norm, epsilon)


def _parameter(values: Floats) -> torch.nn.Parameter:
    # Memory is shared with the array where torch may write to it, which it never does.
    writable = np.require(values, requirements=["C", "W"])
    return torch.nn.Parameter(torch.from_numpy(writable), requires_grad=False)


def _linear(linear: Linear) -> torch.nn.Linear:
    outputs, inputs = linear.weight.shape
    module = torch.nn.Linear(inputs, outputs, device="meta")
    module.weight, module.bias = _parameter(linear.weight), _parameter(linear.bias)
    return module


def _norm(norm: LayerNorm, epsilon: float) -> torch.nn.LayerNorm:
    module = torch.nn.LayerNorm(len(norm.scale), eps=epsilon, device="meta")
    module.weight, module.bias = _parameter(norm.scale), _parameter(norm.shift)
    return module


def has_varlen(device: str, dtype: torch.dtype, head_width: int) -> bool:
    """Whether attention can go by offsets: a half precision on a card of Ampere or later, torch 2.10 or later."""
    if varlen_attn is None or dtype is torch.float32 or not device.startswith("cuda"):
        return False
    if head_width % 8 or head_width > WIDEST_HEAD_WITH_VARLEN:
        return False
    return bool(torch.cuda.get_device_capability(device) >= OLDEST_CARD_WITH_VARLEN)


def attend_by_offsets(qkv: torch.Tensor, offsets: torch.Tensor, longest: int) -> torch.Tensor:
    """Attention of each input to itself, nothing padded.

    Args:
        qkv: (tokens, 3, heads, width).
        offsets: int32, (inputs + 1,).

    Returns:
        (tokens, heads, width).
    """
    query, key, value = qkv.unbind(1)
    attended: torch.Tensor = varlen_attn(query, key, value, offsets, offsets, longest, longest)
    return attended


def attend_on_grid(
    qkv: torch.Tensor, cells: torch.Tensor | None, inputs: int, longest: int, mask: torch.Tensor | None
) -> torch.Tensor:
    """Attention over a padded grid of `inputs` by `longest` tokens.

    Args:
        qkv: (tokens, 3, heads, width).
        cells: place of each token in the flattened grid, int64, (tokens,); None when the tokens fill it.
        mask: what `scaled_dot_product_attention` takes, spread over (inputs, heads, longest, longest).

    Returns:
        (tokens, heads, width).
    """
    grid = qkv
    if cells is not None:
        grid = qkv.new_zeros((inputs * longest, *qkv.shape[1:]))
        grid[cells] = qkv
    query, key, value = grid.view(inputs, longest, *qkv.shape[1:]).permute(2, 0, 3, 1, 4)
    attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    flat = attended.transpose(1, 2).reshape(inputs * longest, *qkv.shape[2:])
    return flat if cells is None else flat[cells]


def _grid(
    positions: torch.Tensor,
    rows: torch.Tensor,
    offsets: torch.Tensor,
    inputs: int,
    longest: int,
    bias: torch.Tensor | None,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """`cells` and `mask` of `attend_on_grid`, neither where all inputs are equally long and there is no `bias`.

    A mask of tokens alone is bool, (inputs, 1, 1, longest); with `bias` it is that, -inf for keys that are none.
    """
    corner = None if bias is None else bias[None, :, :longest, :longest]
    if len(positions) == inputs * longest:
        return None, corner
    cells = rows.long() * longest + positions
    tokens = torch.arange(longest, device=offsets.device) < offsets.diff()[:, None]
    allowed = tokens[:, None, None, :]
    return cells, allowed if corner is None else torch.where(allowed, corner, -torch.inf)


def pool(hidden: torch.Tensor, offsets: torch.Tensor, pooling: str) -> torch.Tensor:
    """One vector an input.

    Args:
        hidden: (tokens, hidden).
        offsets: (inputs + 1,).
        pooling: `mean` or `cls`.

    Returns:
        float32, (inputs, hidden).
    """
    if pooling == "cls":
        return hidden[offsets[:-1]].float()
    return torch.segment_reduce(hidden.float(), "mean", offsets=offsets, axis=0, unsafe=True)


def truncate(vectors: torch.Tensor, dimensions: int, normalize: bool) -> torch.Tensor:
    """The first `dimensions` of each vector (Matryoshka: Kusupati et al. 2022), then of length 1 if asked."""
    cut = vectors[:, :dimensions]
    return functional.normalize(cut, dim=1) if normalize else cut


class CompiledWhenLarge:
    """`forward` as it is for small batches, fused by torch's compiler for large ones.

    The compiler is started by the first large batch, not when a model is loaded: a search never pays for it. Where
    it fails, for want of a C compiler or of Triton, the log says so once and `forward` is run as it is.
    """

    def __init__(self, forward: Callable[..., torch.Tensor], from_tokens: int = COMPILE_FROM_TOKENS) -> None:
        self._forward = forward
        self._compiled: Callable[..., torch.Tensor] | None = None
        self._compiling = threading.Lock()
        self._from_tokens = from_tokens

    def __call__(self, ids: torch.Tensor, *rest: torch.Tensor | int) -> torch.Tensor:
        """What `forward` gives."""
        if len(ids) < self._from_tokens:
            return self._forward(ids, *rest)
        if self._compiled is None:
            with self._compiling:  # tracing looks at the whole process: one thread at a time
                if self._compiled is None:
                    return self._compile(ids, *rest)
        return self._compiled(ids, *rest)

    def _compile(self, *arguments: torch.Tensor | int) -> torch.Tensor:
        from torch._dynamo.exc import TorchDynamoException

        # dynamic: hardly two batches have the same shape.
        compiled = torch.compile(self._forward, dynamic=True)
        try:
            result: torch.Tensor = compiled(*arguments)
        except TorchDynamoException as error:
            log.warning("torch.compile failed, running without: %s", str(error).partition("\n")[0][:300])
            self._compiled = self._forward
            return self._forward(*arguments)
        self._compiled = compiled
        return result
