"""Model folders in sentence-transformers' layout: the pinned model for peers, and large ones with random weights.

    python -m benchmarks.model_folders bert-base FOLDER

Random weights cost what trained ones cost, and nothing has to be fetched.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from benchmarks.hardware import ROOT
from schemas.config import Model
from transforms.embedders.models import default_cache_dir, locate_model

VOCABULARY = 30_522
"""Of the pinned model's tokenizer."""

_BASE = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "vocab_size": VOCABULARY,
}
SHAPES: dict[str, dict[str, Any]] = {
    "bert-base": _BASE
    | {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "pad_token_id": 0,
        "layer_norm_eps": 1e-12,
    },
    "mpnet-base": _BASE
    | {
        "model_type": "mpnet",
        "architectures": ["MPNetModel"],
        "max_position_embeddings": 514,
        "relative_attention_num_buckets": 32,
        "pad_token_id": 1,
        "layer_norm_eps": 1e-5,
    },
}
"""Those of bert-base-uncased and all-mpnet-base-v2, with the vocabulary of the pinned tokenizer."""

Tensors = dict[str, npt.NDArray[np.float32]]


def pinned_folder() -> Path:
    """The default model's files; fetched if they are nowhere on this machine."""
    return locate_model(Model(), default_cache_dir())


def write_reference_folder(target: Path, weights_from: Path | None = None) -> Path:
    """The pinned model as its publisher lays it out: 256 tokens, mean pooling, normalised.

    Args:
        weights_from: folder with the weights, the configuration and the tokenizer; None takes the pinned model's.
    """
    source = weights_from or pinned_folder()
    target.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        _link(source / name, target / name)
    hidden = int(json.loads((target / "config.json").read_text(encoding="utf-8"))["hidden_size"])
    _write_layout(target, hidden, max_tokens=256)
    return target


def write_random_folder(name: str, target: Path, seed: int = 0) -> Path:
    """An encoder of a shape in `SHAPES` with normally distributed weights and the pinned tokenizer.

    What is there already is kept.
    """
    if not (target / "modules.json").is_file():
        config = SHAPES[name]
        target.mkdir(parents=True, exist_ok=True)
        save_file(random_tensors(config, seed), target / "model.safetensors", {"format": "pt"})
        (target / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        _link(pinned_folder() / "tokenizer.json", target / "tokenizer.json")
        _write_layout(target, int(config["hidden_size"]), max_tokens=256)
    return target


def random_tensors(config: Mapping[str, Any], seed: int = 0) -> Tensors:
    """Weights by the names that transformers gives them, deviation 0.02 as they are initialised there."""
    chance = np.random.default_rng(seed)
    hidden, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    tensors: Tensors = {}

    def matrix(name: str, *dims: int) -> None:
        tensors[f"{name}.weight"] = chance.standard_normal(dims, dtype=np.float32) * np.float32(0.02)

    def linear(name: str, outputs: int, inputs: int) -> None:
        matrix(name, outputs, inputs)
        tensors[f"{name}.bias"] = np.zeros(outputs, np.float32)

    def norm(name: str) -> None:
        tensors[f"{name}.weight"] = np.ones(hidden, np.float32)
        tensors[f"{name}.bias"] = np.zeros(hidden, np.float32)

    matrix("embeddings.word_embeddings", int(config["vocab_size"]), hidden)
    matrix("embeddings.position_embeddings", int(config["max_position_embeddings"]), hidden)
    norm("embeddings.LayerNorm")
    is_mpnet = config["model_type"] == "mpnet"
    if is_mpnet:
        matrix(
            "encoder.relative_attention_bias",
            int(config["relative_attention_num_buckets"]),
            int(config["num_attention_heads"]),
        )
    else:
        matrix("embeddings.token_type_embeddings", int(config["type_vocab_size"]), hidden)
    for number in range(int(config["num_hidden_layers"])):
        layer = f"encoder.layer.{number}"
        if is_mpnet:
            attention = [f"{layer}.attention.attn.{part}" for part in ("q", "k", "v", "o")]
            attention_norm = f"{layer}.attention.LayerNorm"
        else:
            parts = ("self.query", "self.key", "self.value", "output.dense")
            attention = [f"{layer}.attention.{part}" for part in parts]
            attention_norm = f"{layer}.attention.output.LayerNorm"
        for name in attention:
            linear(name, hidden, hidden)
        norm(attention_norm)
        linear(f"{layer}.intermediate.dense", inner, hidden)
        linear(f"{layer}.output.dense", hidden, inner)
        norm(f"{layer}.output.LayerNorm")
    return tensors


_EXPORT = """
import sys, torch, transformers
folder, target = sys.argv[1:]
model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = model
    def forward(self, input_ids, attention_mask, token_type_ids):
        return self.model(input_ids, attention_mask, token_type_ids).last_hidden_state
ids = torch.randint(1000, 2000, (2, 8))
names = ["input_ids", "attention_mask", "token_type_ids"]
torch.onnx.export(
    Encoder(), (ids, torch.ones_like(ids), torch.zeros_like(ids)), target, input_names=names,
    output_names=["last_hidden_state"], opset_version=17, dynamo=False,
    dynamic_axes={name: {0: "batch", 1: "tokens"} for name in [*names, "last_hidden_state"]},
)
"""


def export_onnx(folder: Path) -> str:
    """Write `onnx/model.onnx` into a folder by torch's own export, in a process of its own.

    Returns:
        Why there is none; empty when it is there.
    """
    target = folder / "onnx" / "model.onnx"
    if target.is_file():
        return ""
    target.parent.mkdir(exist_ok=True)
    part = target.with_suffix(".part")
    done = subprocess.run(
        [sys.executable, "-c", _EXPORT, str(folder), str(part)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    if done.returncode or not part.is_file():
        last = (done.stderr.strip() or "torch wrote no file").splitlines()[-1]
        return f"no ONNX export of the model: {last[:200]}"
    part.rename(target)
    return ""


def _write_layout(target: Path, hidden: int, max_tokens: int) -> None:
    """What sentence-transformers and fastembed read beside weights, configuration and tokenizer."""
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(kinds)
    ]
    special = {
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
        "pad_token": "[PAD]",
        "sep_token": "[SEP]",
        "unk_token": "[UNK]",
    }
    files: dict[str, Any] = {
        "sentence_bert_config.json": {"max_seq_length": max_tokens, "do_lower_case": False},
        "tokenizer_config.json": special
        | {"tokenizer_class": "BertTokenizer", "model_max_length": max_tokens, "do_lower_case": True},
        "special_tokens_map.json": special,
        "1_Pooling/config.json": {"word_embedding_dimension": hidden, "pooling_mode_mean_tokens": True},
        "modules.json": modules,  # last: a folder with it is complete
    }
    for name, content in files.items():
        path = target / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content, indent=2), encoding="utf-8")
    (target / "2_Normalize").mkdir(exist_ok=True)


def _link(source: Path, target: Path) -> None:
    """A hard link, or a copy where the file system has none between the two."""
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source.resolve())
    except OSError:
        shutil.copyfile(source, target)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    print(write_random_folder(options.shape, options.folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
