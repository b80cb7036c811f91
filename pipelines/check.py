"""Try everything a run needs, without running."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

from extractors.base import Checkable
from extractors.read import build_extractor
from pipelines.check_integrations import integration_attempts
from schemas.config import Config
from schemas.errors import PipelineError
from schemas.sources import Source
from transforms.embedders.loading import load_engine
from transforms.embedders.models import space_of
from transforms.postgres import open_store


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One thing tried.

    Args:
        detail: what was found, or what is wrong and what to do.
    """

    name: str
    ok: bool
    detail: str


def check(config: Config) -> list[CheckResult]:
    """Open every source, the database and the model; nothing is written or spent."""
    return [_try(name, attempt) for name, attempt in _attempts(config)]


def check_integrations(config: Config) -> list[CheckResult]:
    """Ask every endpoint that is configured what costs nothing."""
    return [_try(name, attempt) for name, attempt in integration_attempts(config)]


def _attempts(config: Config) -> Iterator[tuple[str, Callable[[], str]]]:
    yield "database", lambda: _database(config)
    yield "model", lambda: _model(config)
    yield from integration_attempts(config)
    for source in config.sources:
        yield f"source {source.name}", lambda source=source: _source(source, config)  # type: ignore[misc]
    if not config.sources:
        yield "sources", _no_sources


def _try(name: str, attempt: Callable[[], str]) -> CheckResult:
    try:
        return CheckResult(name, True, attempt())
    except PipelineError as error:
        return CheckResult(name, False, str(error))


def _database(config: Config) -> str:
    with open_store(config).connect() as connection:
        row = connection.execute(
            "SELECT current_setting('server_version'), extversion FROM pg_extension WHERE extname = 'vector'"
        ).fetchone()
    server, extension = row if row else ("unknown", "none")
    return f"Postgres {server}, pgvector {extension}"


def _model(config: Config) -> str:
    if config.model.integration is not None:
        space = space_of(config.model)
        return f"{space.model}, {space.dimensions} dimensions, by integration {config.model.integration}"
    engine = load_engine(config.model)
    return f"{engine.space.model} on {engine.facts.engine} {engine.facts.version}, {engine.facts.threads} threads"


def _source(source: Source, config: Config) -> str:
    with closing(build_extractor(source, config.client, config.data_dir, _not_waiting)) as extractor:
        if isinstance(extractor, Checkable):
            return extractor.check()
        for page in extractor.pages(None):
            if page.read:
                break
        expected = extractor.estimate(None)
    return "readable" if expected is None else f"readable, about {expected:,} records"


def _not_waiting(reason: str, duration_s: float) -> None:
    return


def _no_sources() -> str:
    raise PipelineError("no sources are configured: add a [[sources]] table, see the README")
