"""What a model's folder says of itself: sentence-transformers' layout (Reimers & Gurevych 2019), or a bare encoder.

`modules.json` lists the steps from text to vector with their folders: an encoder (`config.json`, `tokenizer.json`,
weights, `sentence_bert_config.json` with its limit), a pooling, perhaps more. `config_sentence_transformers.json`
holds the prompts put before queries and documents. A folder without `modules.json` is taken as sentence-transformers
takes it: mean pooling, not normalised.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from schemas.errors import BadConfig, ModelNotFound
from transforms.embedders.fetch import digest_of
from transforms.embedders.registry import ModelSpec

SAFETENSORS = "model.safetensors"
READY_GRAPHS = ("onnx/model.onnx", "model.onnx")
TORCH_WEIGHTS = "pytorch_model.bin"

_COUNTED_FROM_PADDING = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet"})
"""Families whose position table begins with rows that no token takes."""

_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True, slots=True)
class Layout:
    """Which file of a folder plays which part; paths inside it.

    Args:
        modules: (class name, folder) of each step, the encoder first.
        weights: candidates, best first.
    """

    modules: tuple[tuple[str, str], ...]
    config: str
    tokenizer: str
    weights: tuple[str, ...]

    def steps(self, kind: str) -> list[str]:
        """Folders of the steps of one class."""
        return [path for name, path in self.modules if name == kind]


def read_spec(name: str, folder: Path, engine: str | None = None) -> ModelSpec:
    """Everything that decides the vectors of the model in `folder`.

    Args:
        name: public name of the model.
        engine: that will run it: torch alone takes pickled weights.

    Raises:
        ModelNotFound: there is no such folder, or it lacks files.
        BadConfig: a file cannot be read, or they do not fit each other.
    """
    missing = missing_files(folder, engine)
    if missing:
        raise ModelNotFound(
            f"model.folder: {folder} lacks {', '.join(missing)}: give the folder of {name} as sentence-transformers "
            "saves it, or remove the setting to look on the Hugging Face hub"
        )
    layout = _layout(folder, engine)
    settings = _read(folder / layout.config)
    hidden = _whole_number(folder / layout.config, settings, "hidden_size", "dim", "d_model")
    pooling, dimensions = _pooling(folder, layout, hidden)
    positions, max_tokens = _limits(folder, layout, settings)
    query_prefix, document_prefix = _prompts(folder / "config_sentence_transformers.json")
    more = tuple(kind for kind, _ in layout.modules[1:] if kind not in ("Pooling", "Normalize", "Dropout"))
    weights = next(path for path in layout.weights if (folder / path).is_file())
    return ModelSpec(
        name=name,
        weights=weights,
        weights_sha256=weights_digest([folder / path for path in _weight_files(folder, layout, weights)]),
        tokenizer=layout.tokenizer,
        config=layout.config,
        pooling=pooling,
        normalize=bool(layout.steps("Normalize")),
        dimensions=dimensions,
        positions=positions,
        max_tokens=max_tokens,
        query_prefix=query_prefix,
        document_prefix=document_prefix,
        more_modules=more,
    )


def missing_files(folder: Path, engine: str | None = None) -> list[str]:
    """What `folder` lacks to be a model, in words for people.

    Raises:
        BadConfig: its `modules.json` cannot be read.
    """
    layout = _layout(folder, engine)
    needed = [layout.config, layout.tokenizer, *(f"{path}/config.json" for path in layout.steps("Pooling"))]
    missing = [path for path in needed if not (folder / path).is_file()]
    if not any((folder / path).is_file() for path in layout.weights):
        missing.append(" or ".join(layout.weights))
    return missing


def wanted_files(names: Iterable[str], engine: str | None = None) -> list[str]:
    """Those of a repository's files that make its model: the small ones, and one set of weights."""
    names = sorted(names)
    small = [name for name in names if _SMALL.fullmatch(name)]
    prefix = "0_Transformer/" if "0_Transformer/config.json" in small else ""
    for weights in _candidates(prefix, engine):
        if weights in names:
            beside = {weights, f"{weights}_data", f"{weights}.data"}
            return small + [name for name in names if name in beside or _MODULE_WEIGHTS.fullmatch(name)]
    return small


_MODULE = r"[0-9]+_[A-Za-z]+/"
_SMALL = re.compile(
    rf"(?:{_MODULE})?(?:modules|config|tokenizer|tokenizer_config|special_tokens_map|sentence_bert_config"
    r"|config_sentence_transformers)\.json"
)
_MODULE_WEIGHTS = re.compile(r"[1-9][0-9]*_[A-Za-z]+/(?:model\.safetensors|pytorch_model\.bin)")


def weights_digest(files: Sequence[Path]) -> str:
    """Hex sha256 of a file; of several, that of their digests in order. Computed once for a file that stays."""
    digests = [_digest_while(path, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


@functools.lru_cache(maxsize=64)
def _digest_while(path: Path, size_bytes: int, mtime_ns: int) -> str:
    return digest_of(path)


def _layout(folder: Path, engine: str | None) -> Layout:
    modules = _modules(folder / "modules.json")
    base = modules[0][1]
    prefix = f"{base}/" if base else ""
    return Layout(
        modules=modules,
        config=f"{prefix}config.json",
        tokenizer=f"{prefix}tokenizer.json",
        weights=_candidates(prefix, engine),
    )


def _candidates(prefix: str, engine: str | None) -> tuple[str, ...]:
    others = (TORCH_WEIGHTS,) if engine == "torch" else READY_GRAPHS
    return (f"{prefix}{SAFETENSORS}", *(f"{prefix}{name}" for name in others))


def _modules(path: Path) -> tuple[tuple[str, str], ...]:
    if not path.is_file():
        return (("Transformer", ""),)
    listed = _load(path)
    try:
        modules = tuple((str(step["type"]).rpartition(".")[2], str(step["path"])) for step in listed)
    except (KeyError, TypeError):
        raise BadConfig(f"{path}: expected a list of modules, each with type and path") from None
    outside = [place for _, place in modules if ".." in PurePosixPath(place).parts or place.startswith("/")]
    if not modules or modules[0][0] != "Transformer" or outside:
        found = ", ".join(outside) or ", ".join(kind for kind, _ in modules) or "nothing"
        raise BadConfig(
            f"{path}: found {found}, expected a Transformer first and every module inside the folder"
        )
    return modules


def _pooling(folder: Path, layout: Layout, hidden: int) -> tuple[str, int]:
    """Name of the pooling, and dimensions of what comes out at the end."""
    modes, dimensions = ["mean"], hidden
    for step in layout.steps("Pooling"):
        path = folder / step / "config.json"
        settings = _read(path)
        given = settings.get("pooling_mode")
        modes = [given] if isinstance(given, str) else list(given or ())
        modes = modes or [name for flag, name in _POOLING_FLAGS.items() if settings.get(flag)] or ["mean"]
        if settings.get("include_prompt", True) is False:
            modes.append("without_prompt")
        expected = settings.get("embedding_dimension", settings.get("word_embedding_dimension", hidden))
        if expected != hidden:
            raise BadConfig(f"{path}: pools vectors of {expected} dimensions, {layout.config} gives {hidden}")
        dimensions = hidden * len([mode for mode in modes if mode != "without_prompt"])
    for step in layout.steps("Dense"):
        path = folder / step / "config.json"
        dimensions = _whole_number(path, _read(path), "out_features")
    return "+".join(modes), dimensions


def _limits(folder: Path, layout: Layout, settings: Mapping[str, Any]) -> tuple[int, int]:
    """Positions of the table, and the most tokens of an input."""
    config = folder / layout.config
    said = [
        _optional(config.with_name("sentence_bert_config.json")).get("max_seq_length"),
        _optional(config.with_name("tokenizer_config.json")).get("model_max_length"),
    ]
    # Tokenizers without a limit say a number beyond any (10^30).
    trained = next(
        (int(limit) for limit in said if isinstance(limit, int | float) and 0 < limit < 2**31), None
    )
    if "max_position_embeddings" not in settings:
        if trained is None:
            raise BadConfig(
                f"{config}: no max_position_embeddings, and no max_seq_length in sentence_bert_config.json: "
                "write one there, since the model's limit is not known"
            )
        return trained, trained
    rows = _whole_number(config, settings, "max_position_embeddings")
    first = 0
    if settings.get("model_type") in _COUNTED_FROM_PADDING:
        padding = settings.get("pad_token_id", 1)
        first = padding + 1 if isinstance(padding, int) else 2
    return rows - first, min(trained or rows - first, rows - first)


def _prompts(path: Path) -> tuple[str, str]:
    """What is put before a query and before a document; the default prompt where one is not given."""
    settings = _optional(path)
    prompts = settings.get("prompts") or {}
    if not isinstance(prompts, Mapping):
        raise BadConfig(f"{path}: prompts: expected a table of names and texts")
    default = settings.get("default_prompt_name")
    fallback = [default] if isinstance(default, str) else []

    def first_of(*names: str) -> str:
        found = next((prompts[name] for name in (*names, *fallback) if prompts.get(name) is not None), "")
        if not isinstance(found, str):
            raise BadConfig(f"{path}: prompts: expected texts, found {type(found).__name__}")
        return found

    return first_of("query"), first_of("document", "passage", "corpus")


def _weight_files(folder: Path, layout: Layout, weights: str) -> list[str]:
    """Every file with numbers in it, the main one first."""
    if weights.endswith(".onnx"):
        return [weights, *_external_data(folder, weights)]
    modules = [path for kind, path in layout.modules[1:] if kind not in ("Pooling", "Normalize", "Dropout")]
    found = [f"{path}/{name}" for path in modules for name in (SAFETENSORS, TORCH_WEIGHTS)]
    return [weights, *(path for path in found if (folder / path).is_file())]


def _external_data(folder: Path, weights: str) -> list[str]:
    """Files beside an ONNX graph that hold its larger tensors."""
    path = folder / weights
    locations = _external_locations(path, path.stat().st_size, path.stat().st_mtime_ns)
    parent = PurePosixPath(weights).parent
    found = [str(parent / location) for location in locations]
    missing = [name for name in found if ".." in PurePosixPath(name).parts or not (folder / name).is_file()]
    if missing:
        raise ModelNotFound(
            f"model.folder: {folder} lacks {', '.join(missing)}, which {weights} keeps tensors in"
        )
    return found


@functools.lru_cache(maxsize=64)
def _external_locations(path: Path, size_bytes: int, mtime_ns: int) -> tuple[str, ...]:
    import onnx
    from onnx.external_data_helper import uses_external_data

    try:
        graph = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's own, whichever implementation of it is installed
        raise BadConfig(f"{path}: not a readable ONNX file: {error}") from None
    entries = (
        entry.value
        for tensor in graph.graph.initializer
        if uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    )
    return tuple(sorted(set(entries)))


def _read(path: Path) -> Mapping[str, Any]:
    settings = _load(path)
    if not isinstance(settings, dict):
        raise BadConfig(f"{path}: expected a JSON object")
    return settings


def _optional(path: Path) -> Mapping[str, Any]:
    return _read(path) if path.is_file() else {}


def _load(path: Path) -> Any:
    try:
        return orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise BadConfig(f"{path}: cannot be read: {error}") from None


def _whole_number(path: Path, settings: Mapping[str, Any], *names: str) -> int:
    found = next((settings[name] for name in names if settings.get(name) is not None), None)
    if not isinstance(found, int) or found < 1:
        raise BadConfig(f"{path}: {names[0]} is {found!r}, expected a whole number above 0")
    return found
