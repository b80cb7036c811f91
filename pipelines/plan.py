"""What a backfill will take, before anything is spent: documents, chunks, tokens, money, hours, memory and disk."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime

from extractors.base import OnWait
from extractors.read import build_extractor
from pipelines.budgets import proposals
from pipelines.costs import LocalCost, ProviderCost, local_cost, provider_costs, remote_cost
from pipelines.room import IndexNeeds, index_needs
from pipelines.sampling import CONFIDENCE, Estimate, counted
from pipelines.volume import SAMPLE, BuildExtractor, Meter, Progress, SourceVolume, measure_source
from schemas.config import Config
from schemas.errors import BadConfig
from transforms.allowance.proposal import Proposal
from transforms.embedders.models import space_of
from transforms.postgres import open_store


@dataclass(frozen=True, slots=True)
class Plan:
    """What the configured sources will take.

    Args:
        confidence: of the intervals.
        local: None where the model is a remote one.
        remote: None where it is not.
        proposals: for clients whose budgets do not cover it.
        max_tokens: after which `headrace backfill` stops.
    """

    planned_at: datetime
    client: str
    space_id: str
    model: str
    confidence: float
    sources: tuple[SourceVolume, ...]
    documents: int
    unchanged: int
    chunks: Estimate
    tokens: Estimate
    reused: Estimate
    local: LocalCost | None
    remote: ProviderCost | None
    proposals: tuple[Proposal, ...]
    providers: tuple[ProviderCost, ...]
    indexes: IndexNeeds
    max_tokens: int

    @property
    def open_ended(self) -> tuple[str, ...]:
        """Sources that do not say how much more they have than was read."""
        return tuple(one.source for one in self.sources if one.basis == "open end")


def make_plan(
    config: Config,
    sample: int | None = SAMPLE,
    progress: Progress = lambda source, read, expected: None,
    on_wait: OnWait = lambda reason, duration_s: None,
    build: BuildExtractor = build_extractor,
) -> Plan:
    """Read the sources as a run would, and say what a run would take. Nothing is stored but a source's own mirror.

    Args:
        sample: documents of a source that are cut; None reads and cuts everything.
    Raises:
        PipelineError: a source, the database or the model is not there.
    """
    if not config.sources:
        raise BadConfig("no sources are configured: add a [[sources]] table, as the README shows")
    space, remote = space_of(config.model), config.model.integration
    with open_store(config).connect() as connection:
        meter = Meter(connection, config, space)
        sources = tuple(
            measure_source(connection, config, source, space, meter, sample, progress, on_wait, build)
            for source in config.sources
        )
        tokens = sum((one.tokens for one in sources), start=counted(0))
        return Plan(
            planned_at=datetime.now(UTC),
            client=config.client,
            space_id=space.space_id,
            model=space.model,
            confidence=CONFIDENCE,
            sources=sources,
            documents=sum(one.documents for one in sources),
            unchanged=sum(one.unchanged for one in sources),
            chunks=sum((one.chunks for one in sources), start=counted(0)),
            tokens=tokens,
            reused=sum((one.reused for one in sources), start=counted(0)),
            local=(
                local_cost(connection, config, space.space_id, meter.inputs, tokens)
                if remote is None
                else None
            ),
            remote=None if remote is None else remote_cost(connection, remote, tokens),
            proposals=proposals(connection, config, space.space_id, sources),
            providers=provider_costs(tokens),
            indexes=index_needs(connection, config, space, sources),
            max_tokens=math.ceil(tokens.high * (1 + config.backfill.max_over_plan)),
        )
