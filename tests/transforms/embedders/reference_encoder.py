"""The encoders in plain numpy, read off their papers and checkpoints, one input at a time and so without padding.

Post-norm transformer (Vaswani et al. 2017; Devlin et al. 2019) in float64. RoBERTa counts positions from behind the
padding token (Liu et al. 2019); MPNet adds a bias by relative position to the attention scores of every layer (Song
et al. 2020, after Raffel et al. 2020). It knows nothing of headrace's own reading of the files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def embed(
    config: Mapping[str, Any],
    tensors: Mapping[str, npt.NDArray[np.float32]],
    ids: Sequence[int],
    pooling: str,
) -> Array:
    """Pooled vector of one input, (hidden,), not normalised."""
    hidden = encode(config, tensors, ids)
    return hidden[0] if pooling == "cls" else hidden.mean(axis=0)


def encode(
    config: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[np.float32]], ids: Sequence[int]
) -> Array:
    """Last layer of one input, (tokens, hidden)."""
    weights = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    epsilon, family = config["layer_norm_eps"], config["model_type"]

    def linear(name: str, x: Array) -> Array:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name: str, x: Array) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    tokens = len(ids)
    first = 0 if family == "bert" else config["pad_token_id"] + 1
    x = weights["embeddings.word_embeddings.weight"][list(ids)]
    x = x + weights["embeddings.position_embeddings.weight"][first : first + tokens]
    if family != "mpnet":
        x = x + weights["embeddings.token_type_embeddings.weight"][0]
    x = norm("embeddings.LayerNorm", x)

    heads = config["num_attention_heads"]
    bias = np.zeros((heads, tokens, tokens))
    if family == "mpnet":
        table = weights["encoder.relative_attention_bias.weight"]
        for query in range(tokens):
            for key in range(tokens):
                bias[:, query, key] = table[bucket(key - query, len(table))]
    for number in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{number}"
        attention = f"{layer}.attention"
        if family == "mpnet":
            names = [f"{attention}.attn.{part}" for part in "qkvo"]
            after = f"{attention}.LayerNorm"
        else:
            names = [f"{attention}.self.{part}" for part in ("query", "key", "value")]
            names.append(f"{attention}.output.dense")
            after = f"{attention}.output.LayerNorm"
        q, k, v = (linear(name, x).reshape(tokens, heads, -1).transpose(1, 0, 2) for name in names[:3])
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1]) + bias
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        mixed = (shares @ v).transpose(1, 0, 2).reshape(tokens, -1)
        x = norm(after, linear(names[3], mixed) + x)
        up = linear(f"{layer}.intermediate.dense", x)
        gelu = up * 0.5 * (1 + _erf(up / math.sqrt(2)))
        x = norm(f"{layer}.output.LayerNorm", linear(f"{layer}.output.dense", gelu) + x)
    return x


def bucket(distance: int, buckets: int) -> int:
    """Bucket of `key - query`, after T5: half of them ahead, the near ones exact, the rest by logarithm up to 128."""
    half = buckets // 2
    start = half if distance > 0 else 0
    away, exact = abs(distance), half // 2
    if away < exact:
        return start + away
    far = exact + int(math.log(away / exact) / math.log(128 / exact) * (half - exact))
    return start + min(far, half - 1)
