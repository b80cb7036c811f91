"""Does the index hold what its sources hold? Asks, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import get_args

import psycopg

from extractors.base import Extractor, Verifiable
from extractors.read import build_extractor
from pipelines.reconcile import NOT_VERIFIABLE, Difference, Side, compared, missing
from schemas.config import Config
from schemas.errors import PipelineError
from schemas.sources import Source
from transforms.postgres import open_store
from transforms.source_states import one_line
from transforms.stored_sources import stored_sources

MAX_EXAMPLES = 10
NOT_CONFIGURED = "not configured any more: what is stored of it stays until `headrace forget"


@dataclass(frozen=True, slots=True)
class SourceVerdict:
    """A source against what is stored of it.

    Args:
        difference: None where no census was completed.
        examples: side -> some of what it lacks, as kind and key.
        not_asked: why no census was asked for; empty otherwise.
        error: why none was completed; empty otherwise.
    """

    source: str
    difference: Difference | None = None
    examples: Mapping[str, list[str]] = field(default_factory=dict)
    not_asked: str = ""
    error: str = ""

    @property
    def ok(self) -> bool:
        missing = self.difference and self.difference.missing_in_source + self.difference.missing_in_store
        return not (missing or self.error)


def verify_sources(
    config: Config, client: str, build: Callable[..., Extractor] = build_extractor
) -> list[SourceVerdict]:
    """Take the census of every source of a client and compare it with Postgres; changes nothing.

    What happened since the last poll counts as a difference. Sources that are stored and not configured come last,
    not asked.
    """
    configured = config.sources_of(client)
    with open_store(config).connect() as connection:
        verdicts = [_verdict(connection, config, client, source, build) for source in configured]
        left = set(stored_sources(connection, client)).difference(source.name for source in configured)
        return verdicts + [
            SourceVerdict(name, not_asked=f"{NOT_CONFIGURED} {name}`") for name in sorted(left)
        ]


def _verdict(
    connection: psycopg.Connection,
    config: Config,
    client: str,
    source: Source,
    build: Callable[..., Extractor],
) -> SourceVerdict:
    try:
        with closing(build(source, config.client, config.data_dir, _not_waiting)) as extractor:
            if not isinstance(extractor, Verifiable):
                return SourceVerdict(source.name, not_asked=NOT_VERIFIABLE)
            with compared(connection, client, source.name, extractor.census()) as difference:
                examples = {side: _examples(connection, side) for side in get_args(Side)}
                return SourceVerdict(
                    source.name, difference, {side: some for side, some in examples.items() if some}
                )
    except PipelineError as error:
        return SourceVerdict(source.name, error=one_line(error))


def _examples(connection: psycopg.Connection, side: Side) -> list[str]:
    some = next(missing(connection, side), [])[:MAX_EXAMPLES]
    return [f"{reference.kind} {reference.key or reference.native_id}" for reference in some]


def _not_waiting(reason: str, duration_s: float) -> None:
    return
