"""What deliveries of webhooks name, looked at again at its source and put through the pipeline."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import psycopg

from extractors.base import Extractor, Page, Reference, Verifiable
from schemas.documents import Kind
from schemas.errors import PipelineError
from transforms.deliveries import Delivery, mark_done, mark_failed, pending, said_about

logger = logging.getLogger(__name__)

BATCH = 200
"""Deliveries looked at together."""
BATCHES = 10
"""Of one call, so that a flood of deliveries does not keep other sources waiting."""


def process_deliveries(
    connection: psycopg.Connection,
    client: str,
    source: str,
    extractor: Extractor,
    ingest: Callable[[Iterable[Page]], object],
    poll: Callable[[], object],
) -> Counter[str]:
    """Process a source's pending deliveries, in the order they came; one that fails is put off, and then tried alone.

    Safe to repeat: a delivery is done only when what it names is stored.

    Args:
        ingest: puts pages through the pipeline; their rows are durable when it returns.
        poll: looks for changes of the whole source.
    Returns:
        `done` and `failed` -> deliveries.
    Raises:
        Exception: of the database or a defect; the deliveries are put off, so as not to meet it again at once.
    """
    ended: Counter[str] = Counter()
    for _ in range(BATCHES):
        deliveries = pending(connection, client, source, BATCH)
        for group in _groups(deliveries):
            ids = [delivery.delivery_id for delivery in group]
            try:
                if group[0].asks_for_poll or not isinstance(extractor, Verifiable):
                    poll()
                else:
                    ingest(_looked_at_again(connection, client, source, extractor, group))
            except Exception as error:
                expected = isinstance(error, PipelineError)
                said = f"{type(error).__name__}: {error}" if expected else type(error).__name__
                logger.warning("source %r: %d deliveries are put off: %s", source, len(ids), said)
                mark_failed(connection, ids, said)
                ended["failed"] += len(ids)
                if not expected:
                    raise
            else:
                mark_done(connection, ids)
                ended["done"] += len(ids)
        if len(deliveries) < BATCH:
            break
    return ended


def _groups(deliveries: Sequence[Delivery]) -> Iterator[Sequence[Delivery]]:
    polls = [delivery for delivery in deliveries if delivery.asks_for_poll]
    named = [delivery for delivery in deliveries if not delivery.asks_for_poll]
    fresh = [delivery for delivery in named if not delivery.attempts]
    if fresh:
        yield fresh
    yield from ([delivery] for delivery in named if delivery.attempts)
    if polls:
        yield polls


def _looked_at_again(
    connection: psycopg.Connection,
    client: str,
    source: str,
    extractor: Verifiable,
    deliveries: Sequence[Delivery],
) -> Iterator[Page]:
    """What the source says now of everything named, and of what was said about an issue that is gone."""
    named: dict[Reference, Reference] = {}
    for reference in (each for delivery in deliveries for each in delivery.references):
        if reference.key or reference not in named:  # the latest key of a document is the one to ask by
            named[reference] = reference
    for page in extractor.look_again(list(named.values())):
        gone = [Reference(stone.kind, stone.native_id) for stone in page.tombstones]
        keys = [named[one].key for one in gone if one in named and one.kind in (Kind.ISSUE, Kind.PULL)]
        orphans = [one for one in said_about(connection, client, source, keys) if one not in named]
        if orphans:
            yield from extractor.look_again(orphans)
        yield page
