"""Every request to a provider is a row of the ledger before it is made, and that row is completed as soon as it ends.

A worker that dies in the middle of a request, or after it, loses no call that was billed; a run that fails shows what
it had cost until then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Literal
from uuid import UUID

from schemas.usage import UsageEvent
from transforms.postgres import Session, Store
from transforms.usage import write_usage

Operation = Literal["embed_documents", "embed_query", "embed_canaries", "moderate"]


@dataclass(frozen=True, slots=True)
class ProviderCall:
    """One request, answered or failed.

    Args:
        call_id: of its reservation, where one was made; the ledger's `event_id`.
        integration: name of the endpoint asked.
        inputs: texts in it.
        tokens: of them, as counted here.
        tokens_reported: as the provider billed them, None where it did not say.
        usd: what it came to; 0 where certainly nothing was billed.
        latency_s: wall seconds until it ended.
        attempt: 1 for the first request with these texts.
        error_type: class name of the failure, None when it was answered.
        request_id: the provider's own.
        occurred_at: when it ended, UTC.
    """

    call_id: UUID
    integration: str
    provider: str
    model: str
    operation: Operation
    inputs: int
    tokens: int
    tokens_reported: int | None
    usd: Decimal
    latency_s: float
    attempt: int
    error_type: str | None
    request_id: str | None
    occurred_at: datetime


Meter = Callable[[ProviderCall], None]
"""Told of each request twice, from whichever thread makes it: before, as `UNFINISHED` at its estimate, and when it
has ended, with the same `call_id`."""


@dataclass(frozen=True, slots=True)
class Account:
    """What calls are written down for.

    Args:
        client: who pays.
        run_id: None outside of runs, such as for a query.
        source: name of the configured source the texts are from; empty for a query.
    """

    client: str
    run_id: UUID | None
    space_id: str
    source: str = ""


class LedgerMeter:
    """Writes calls to `ai_usage_tracking` by a connection of its own, one after the other. Implements `Meter`.

    Raises:
        SinkUnavailable: from a call, when Postgres does not take the row after several attempts: nothing more may be
            spent that could not be written down.
    """

    def __init__(self, store: Store, account: Account) -> None:
        self._session = Session(store)
        self._account = account
        self._lock = threading.Lock()

    def __call__(self, call: ProviderCall) -> None:
        write = partial(write_usage, event=usage_event(call, self._account))
        with self._lock:
            self._session.run(write)

    def close(self) -> None:
        """End the connection."""
        with self._lock:
            self._session.close()


def usage_event(call: ProviderCall, account: Account) -> UsageEvent:
    """A request as a row of the ledger."""
    return UsageEvent(
        event_id=call.call_id,
        client=account.client,
        run_id=account.run_id,
        provider=call.provider,
        operation=call.operation,
        model=call.model,
        space_id=account.space_id,
        inputs=call.inputs,
        tokens=call.tokens,
        tokens_reported=call.tokens_reported,
        cost_usd=call.usd,
        machine_seconds=0.0,
        latency_s=call.latency_s,
        occurred_at=call.occurred_at,
        attempt=call.attempt,
        error_type=call.error_type,
        source=account.source,
        integration=call.integration,
        metadata={"request_id": call.request_id} if call.request_id else {},
    )
