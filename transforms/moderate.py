"""Judge documents after they were cut and before anything is embedded or stored, where that is configured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from schemas.allowances import AllowanceSettings
from schemas.documents import ChunkedDocument, DeadLetter
from schemas.errors import Flagged, NotModerated, PipelineError, UnknownName
from schemas.integrations import Integration
from schemas.moderation import Moderation
from transforms.allowance.opening import open_allowance
from transforms.moderation import Finding, Input, Moderator
from transforms.postgres import Session, Store
from transforms.providers.accounting import Accounts
from transforms.providers.metering import Account, LedgerMeter
from transforms.providers.moderation import ModerationEndpoint, Verdict, price_of_moderation
from transforms.stored_integrations import integration_of, load_rows

MODERATION = "headrace.moderation"
"""Namespace of the counters, which are those of `schemas.outcomes.MODERATED`."""


def moderation_settings(moderation: Moderation) -> dict[str, Any]:
    """What decides whether a document passes; JSON-able. A policy for failures is none of it."""
    return {"integration": moderation.integration, "model": moderation.model}


def open_endpoint(session: Session, moderation: Moderation) -> ModerationEndpoint:
    """The endpoint that is configured.

    Raises:
        UnknownName: there is no such integration; BadConfig: it has no moderation.
    """
    rows = session.run(load_rows)
    if moderation.integration not in rows:
        raise UnknownName(
            f"moderation: there is no integration {moderation.integration!r}: see `headrace integrations list`"
        )
    integration: Integration = integration_of(rows[moderation.integration])
    return ModerationEndpoint(integration, moderation.model)


def verdict_on(
    document: ChunkedDocument, findings: Sequence[Finding], moderation: Moderation
) -> DeadLetter | None:
    """Why a document does not pass, None if it does. Pure.

    Args:
        findings: of its chunks, in order.
    """
    record = document.document.record
    for chunk, finding in zip(document.chunks, findings, strict=True):
        if isinstance(finding, Verdict) and finding.flagged:
            what = ", ".join(finding.categories) or "no category"
            reason = f"chunk {chunk.ordinal}: {moderation.model} flags it: {what}"
            return DeadLetter(record, "moderate", Flagged.__name__, reason, Flagged.retriable)
    error = next((finding for finding in findings if isinstance(finding, PipelineError)), None)
    if error is None or moderation.on_failure == "pass":
        return None
    reason = f"nobody could judge it: {error}"
    return DeadLetter(record, "moderate", NotModerated.__name__, reason, NotModerated.retriable)


class ModerateDocuments(beam.PTransform):  # type: ignore[misc]
    """`PCollection[ChunkedDocument]` -> `documents` that pass, and `dead_letters`.

    Args:
        moderation: None lets everything pass, and asks nobody.
        store: where integrations and the ledger are.
        account: what calls are written down for.
        allowance: what the client may spend.
    """

    def __init__(
        self, moderation: Moderation | None, store: Store, account: Account, allowance: AllowanceSettings
    ) -> None:
        super().__init__()
        self._fn = _ModerateFn(moderation, store, account, allowance)

    def expand(self, documents: beam.PCollection[ChunkedDocument]) -> Any:
        return documents | "Judge" >> beam.ParDo(self._fn).with_outputs("dead_letters", main="documents")


class _ModerateFn(beam.DoFn):  # type: ignore[misc]
    def __init__(
        self, moderation: Moderation | None, store: Store, account: Account, allowance: AllowanceSettings
    ) -> None:
        self._moderation = moderation
        self._store = store
        self._account = account
        self._allowance = allowance

    def setup(self) -> None:
        if self._moderation is None:
            return
        session = Session(self._store)
        try:
            self._endpoint = open_endpoint(session, self._moderation)
        finally:
            session.close()
        price = price_of_moderation(self._moderation, self._endpoint.integration)
        self._granted = open_allowance(self._allowance, self._store, partial(datetime.now, UTC))
        self._meter = LedgerMeter(self._store, self._account)
        accounts = Accounts(self._account.client, self._granted, self._meter)
        self._moderator = Moderator(self._endpoint, accounts, price)

    def start_bundle(self) -> None:
        self._buffer: list[ChunkedDocument] = []
        self._buffered = 0

    def process(self, document: ChunkedDocument) -> Iterator[Any]:
        if self._moderation is None:
            yield document
            return
        self._buffer.append(document)
        self._buffered += len(document.chunks)
        if self._buffered >= self._moderator.appetite or len(self._buffer) >= self._moderator.appetite:
            yield from self._judged(self._moderation)

    def finish_bundle(self) -> Iterator[Any]:
        if self._moderation is None:
            return
        # Only global windows reach this step; event time travels inside the records.
        window = GlobalWindow()
        for output in self._judged(self._moderation):
            if isinstance(output, beam.pvalue.TaggedOutput):
                value = WindowedValue(output.value, window.max_timestamp(), [window])
                yield beam.pvalue.TaggedOutput(output.tag, value)
            else:
                yield WindowedValue(output, window.max_timestamp(), [window])

    def teardown(self) -> None:
        if self._moderation is None:
            return
        self._moderator.close()
        self._endpoint.close()
        self._meter.close()
        self._granted.close()

    def _judged(self, moderation: Moderation) -> Iterator[Any]:
        documents, self._buffer, self._buffered = self._buffer, [], 0
        chunks = [chunk for document in documents for chunk in document.chunks]
        findings = self._moderator.findings([Input(chunk.text, len(chunk.model_input)) for chunk in chunks])
        start = 0
        for document in documents:
            own = findings[start : start + len(document.chunks)]
            start += len(document.chunks)
            letter = verdict_on(document, own, moderation)
            Metrics.counter(MODERATION, _name(letter, own)).inc()
            yield document if letter is None else beam.pvalue.TaggedOutput("dead_letters", letter)


def _name(letter: DeadLetter | None, findings: Sequence[Finding]) -> str:
    """The counter of a document; each has one."""
    if letter is not None:
        return "flagged" if letter.error_type == Flagged.__name__ else "refused"
    return "judged" if all(isinstance(finding, Verdict) for finding in findings) else "passed"
