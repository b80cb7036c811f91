"""Documents that no endpoint could embed go through the pipeline again by themselves, once one can be asked."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing

import psycopg

from extractors.base import Page
from pipelines.ingest import IngestJob
from schemas.errors import Parked
from transforms.dead_letters import load_for_retry, parked_again, parked_letters
from transforms.providers.metering import Account

PAGE_RECORDS = 200

_log = logging.getLogger(__name__)


def parked_pages(connection: psycopg.Connection, job: IngestJob) -> Iterator[Page]:
    """The parked documents of a source, if some endpoint can be asked now; their cursors mean nothing.

    Each comes once at most, and no more come when those before were parked once more.

    Raises:
        PipelineError: nobody can say whether an endpoint can be asked.
    """
    letters = parked_letters(connection, job.client, job.source.name)
    if not letters or not _can_be_embedded(job):
        return
    ids = list(letters)
    for start in range(0, len(ids), PAGE_RECORDS):
        if parked_again(connection, letters):
            return
        yield Page(records=tuple(load_for_retry(connection, job.client, ids[start : start + PAGE_RECORDS])))


def _can_be_embedded(job: IngestJob) -> bool:
    if job.model.is_local:
        return True
    from transforms.providers.engine import open_remote_engine  # only where texts leave

    account = Account(job.client, job.run_id, job.space.space_id, job.source.name)
    with closing(open_remote_engine(job.model, "document", job.store, account, job.allowance)) as engine:
        try:
            engine.check()
        except Parked as parked:
            _log.info("what is parked stays so: %s", parked)
            return False
    return True
