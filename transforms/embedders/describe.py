"""What this machine would embed with, and why: nothing is fetched, nothing is loaded."""

from __future__ import annotations

from typing import TypedDict

from schemas.config import Model
from schemas.spaces import Precision
from transforms.embedders.loading import engine_choice
from transforms.embedders.models import (
    check_folder,
    default_cache_dir,
    find_model,
    space_from,
    space_of,
    spec_in,
)
from transforms.embedders.registry import REGISTRY


class ModelRow(TypedDict):
    """A model of `headrace models`.

    Keys: `found` is its folder on this machine; None when it would have to be fetched, at the cost of `download_mb`
    where that is known. `engine`, `arithmetic` and `threads` are what would run it, `why` says why these. What only
    a model's files can say is None until they are here. Prefixes and limits are those of the configuration, where it
    has some.
    """

    name: str
    configured: bool
    found: str | None
    download_mb: int | None
    engine: str
    arithmetic: str
    threads: int
    why: str
    precision: Precision
    space_id: str | None
    dimensions: int | None
    max_tokens: int | None
    pooling: str | None
    query_prefix: str | None
    document_prefix: str | None


def describe_models(configured: Model) -> list[ModelRow]:
    """The configured model, then the others of the registry as they would be run with its precision and threads.

    Raises:
        ModelNotFound, DigestMismatch, BadConfig: what is wrong with the configured model or its folder.
    """
    others = [
        Model(name=name, precision=configured.precision, engine=configured.engine, threads=configured.threads)
        for name in REGISTRY
        if name != configured.name
    ]
    if configured.folder is not None:
        check_folder(configured, configured.folder)
    return [_describe(configured, True), *(_describe(model, False) for model in others)]


def _describe_remote(model: Model) -> ModelRow:
    space = space_of(model)
    return ModelRow(
        name=model.name,
        configured=True,
        found=None,
        download_mb=None,
        engine="remote",
        arithmetic="",
        threads=0,
        why=f"integration {model.integration}",
        precision=model.precision,
        space_id=space.space_id,
        dimensions=space.dimensions,
        max_tokens=space.max_tokens,
        pooling=space.pooling,
        query_prefix=space.query_prefix,
        document_prefix=space.document_prefix,
    )


def _describe(model: Model, configured: bool) -> ModelRow:
    if not model.is_local:
        return _describe_remote(model)
    found = find_model(model, default_cache_dir())
    pinned = REGISTRY.get(model.name)
    spec = spec_in(model, found) if found is not None else pinned
    space = space_from(spec, model) if spec is not None else None
    choice = engine_choice(model, spec, found)
    return ModelRow(
        name=model.name,
        configured=configured,
        found=str(found) if found is not None else None,
        download_mb=pinned.pinned.download_mb if pinned is not None and pinned.pinned is not None else None,
        engine=choice.engine,
        arithmetic=choice.arithmetic,
        threads=choice.threads,
        why=choice.why,
        precision=model.precision,
        space_id=space.space_id if space else None,
        dimensions=space.dimensions if space else None,
        max_tokens=space.max_tokens if space else None,
        pooling=space.pooling if space else None,
        query_prefix=space.query_prefix if space else None,
        document_prefix=space.document_prefix if space else None,
    )
