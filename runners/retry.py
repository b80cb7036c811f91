"""Dead letters once more through the pipeline that refused them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from extractors.base import Page
from runners.progress_bar import RunProgress
from runners.slices import accounted, job_for, run_pages
from schemas.config import Config
from schemas.documents import SourceRecord
from transforms import runs
from transforms.dead_letters import load_for_retry, resolve_superseded
from transforms.embedders.models import space_of
from transforms.postgres import open_store
from transforms.spaces import register_space

RETRY_PAGE = 200
"""Dead letters put through the pipeline together."""


def retry_dead_letters(
    config: Config, bar: RunProgress, client: str, ids: Sequence[UUID] | None
) -> Counter[str]:
    """Put a client's dead letters through the pipeline again.

    Args:
        ids: which; None for all that are open.
    Returns:
        Outcome -> records; `source_not_configured` counts those whose source the configuration no longer names.
    """
    bar.step("starting")
    store = open_store(config)
    space = space_of(config.model)
    sources = {source.name: source for source in config.sources}
    total: Counter[str] = Counter()
    with store.connect() as connection:
        register_space(connection, space, config.postgres.vector_type, client)
        with runs.started(connection, client, space.space_id) as run_id:
            by_source: dict[str, list[SourceRecord]] = defaultdict(list)
            for record in load_for_retry(connection, client, ids):
                by_source[record.source].append(record)
            for name, records in by_source.items():
                if name not in sources:
                    total["source_not_configured"] += len(records)
                    continue
                bar.source(name, len(records))
                job = replace(job_for(config, sources[name], store, space, run_id), client=client)
                for start in range(0, len(records), RETRY_PAGE):
                    page = Page(records=tuple(records[start : start + RETRY_PAGE]))
                    counted, _ = run_pages([page], job)
                    total += accounted([page], counted)
            resolve_superseded(connection, client)
    return total
