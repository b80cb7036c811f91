"""Encoders of a few random numbers, written as sentence-transformers would write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import orjson
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

Family = Literal["bert", "roberta", "xlm-roberta", "mpnet"]
FAMILIES: tuple[Family, ...] = ("bert", "roberta", "xlm-roberta", "mpnet")
Tensors = dict[str, npt.NDArray[np.float32]]

WORDS = (
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz0123456789.,:;#-_/", "pump", "gate",
    "stall", "water", "query", "passage", "##s", "##ed", "##ing",
    *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"),
)  # fmt: skip


def settings(family: str = "bert", **changes: Any) -> dict[str, Any]:
    """`config.json` of a tiny encoder with 40 usable positions."""
    first = 0 if family == "bert" else 2
    found = {
        "model_type": family, "hidden_act": "gelu", "hidden_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 3, "intermediate_size": 40, "max_position_embeddings": 40 + first,
        "layer_norm_eps": 1e-5, "vocab_size": len(WORDS), "pad_token_id": 0 if family == "bert" else 1,
        "type_vocab_size": 2 if family == "bert" else 1,
    }  # fmt: skip
    if family == "mpnet":
        found["relative_attention_num_buckets"] = 32
        del found["type_vocab_size"]
    return found | changes


def tensors(config: dict[str, Any], seed: int = 7) -> Tensors:
    """Random weights by the names that the family's own library gives them, large enough to tell layers apart."""
    random = np.random.default_rng(seed)
    hidden, intermediate = config["hidden_size"], config["intermediate_size"]

    def normal(*shape: int, scale: float = 0.3) -> npt.NDArray[np.float32]:
        return (random.standard_normal(shape) * scale).astype(np.float32)

    def norm(name: str) -> Tensors:
        return {f"{name}.weight": 1 + normal(hidden, scale=0.1), f"{name}.bias": normal(hidden, scale=0.1)}

    def linear(name: str, outputs: int, inputs: int) -> Tensors:
        return {f"{name}.weight": normal(outputs, inputs), f"{name}.bias": normal(outputs, scale=0.1)}

    mpnet = config["model_type"] == "mpnet"
    found = {
        "embeddings.word_embeddings.weight": normal(config["vocab_size"], hidden, scale=1),
        "embeddings.position_embeddings.weight": normal(config["max_position_embeddings"], hidden),
        **norm("embeddings.LayerNorm"),
    }
    if mpnet:
        heads = config["num_attention_heads"]
        found["encoder.relative_attention_bias.weight"] = normal(
            config["relative_attention_num_buckets"], heads, scale=1
        )
    else:
        found["embeddings.token_type_embeddings.weight"] = normal(config["type_vocab_size"], hidden)
    for number in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{number}"
        attention = f"{layer}.attention"
        names = [f"{attention}.attn.{part}" for part in "qkvo"]
        if not mpnet:
            names = [f"{attention}.self.{part}" for part in ("query", "key", "value")]
            names.append(f"{attention}.output.dense")
        for name in names:
            found |= linear(name, hidden, hidden)
        found |= norm(f"{attention}.LayerNorm" if mpnet else f"{attention}.output.LayerNorm")
        found |= linear(f"{layer}.intermediate.dense", intermediate, hidden)
        found |= linear(f"{layer}.output.dense", hidden, intermediate)
        found |= norm(f"{layer}.output.LayerNorm")
    return found


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(orjson.dumps(value))


def write_tokenizer(path: Path) -> None:
    """A word-piece tokenizer of a few words, built as BERT's is."""
    tokenizer = Tokenizer(models.WordPiece({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))  # type: ignore[arg-type]
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(list(WORDS[:5]))
    tokenizer.save(str(path))


def write_encoder(folder: Path, family: Family = "bert", **changes: Any) -> Path:
    """A bare folder: configuration, weights, tokenizer."""
    config = settings(family, **changes)
    write_json(folder / "config.json", config)
    save_file(tensors(config), folder / "model.safetensors")
    write_tokenizer(folder / "tokenizer.json")
    return folder


def write_model(
    folder: Path,
    family: Family = "bert",
    *,
    pooling: str = "mean",
    normalize: bool = True,
    max_seq_length: int = 32,
    prompts: dict[str, str] | None = None,
    default_prompt_name: str | None = None,
    dense: int | None = None,
) -> Path:
    """A folder in sentence-transformers' layout."""
    write_encoder(folder, family)
    kinds = ["Transformer", "Pooling", *(["Dense"] if dense else []), *(["Normalize"] if normalize else [])]
    paths = ["", *(f"{n}_{kind}" for n, kind in enumerate(kinds[1:], 1))]
    steps = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    write_json(folder / "modules.json", steps)
    flags = {
        f"pooling_mode_{mode}": mode.startswith(pooling)
        for mode in ("cls_token", "mean_tokens", "max_tokens")
    }
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 24, **flags})
    if dense:
        write_json(folder / "2_Dense" / "config.json", {"in_features": 24, "out_features": dense})
        save_file(
            {"linear.weight": np.ones((dense, 24), np.float32)}, folder / "2_Dense" / "model.safetensors"
        )
    write_json(
        folder / "sentence_bert_config.json", {"max_seq_length": max_seq_length, "do_lower_case": False}
    )
    write_json(
        folder / "config_sentence_transformers.json",
        {"prompts": prompts or {}, "default_prompt_name": default_prompt_name},
    )
    return folder
