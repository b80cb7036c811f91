"""Tell other programs of every committed change set, through Postgres NOTIFY.

A message is sent inside the transaction that makes the change, so it arrives just after the change can be seen, and
never if it was rolled back. Who does not listen at that moment misses it: a listener first listens, then reads what
it wants to know from the tables, then follows the messages. A batch that is written again, because its bundle is
retried or the answer to its commit was lost, finds nothing to change and is silent: its message came the first time.

The channel is `headrace_changes`. Whoever may connect may listen there, so once any role reads a client
(`headrace readers grant`), nothing is sent there any more: each client's messages go to a channel of its own, whose
name stands in the table `change_channels`, for the owner and the client's readers alone.

A message is one JSON object:

    client             whose documents
    source             name of the configured source
    run_id             the run that wrote them, null outside a run
    space_id           the embedding space written to; null for a deletion, which is from every space
    new                documents that the space did not have
    changed            documents that it had otherwise
    deleted            documents that are gone
    document_ids       of these, as many as fit
    truncated          whether there are more of them than that
    high_water_row_id  no chunk of this or an earlier change set has a higher row id

A listener, complete (it must not stay in a transaction: Postgres keeps every message until all have read it):

    import json, psycopg

    with psycopg.connect(DSN, autocommit=True) as connection:
        connection.execute("LISTEN headrace_changes")
        for notice in connection.notifies():
            change = json.loads(notice.payload)
            print(change["source"], change["new"], change["changed"], change["deleted"])
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
import psycopg

from schemas.outcomes import Outcome
from transforms.storable import storable_text

CHANNEL = "headrace_changes"
MAX_PAYLOAD_BYTES = 7999
"""Postgres takes less than 8000."""


@dataclass(frozen=True, slots=True)
class Change:
    """What became of one document: NEW, CHANGED or DELETED."""

    client: str
    source: str
    document_id: UUID
    outcome: Outcome


def announce(
    connection: psycopg.Connection, changes: Iterable[Change], space_id: str | None, run_id: UUID | None
) -> None:
    """Send the messages of a change set, one for each client and source; call it last in the transaction."""
    owned: dict[tuple[str, str], list[Change]] = defaultdict(list)
    for change in changes:
        owned[change.client, change.source].append(change)
    if not owned:
        return
    row = connection.execute(
        "SELECT last_value, EXISTS (SELECT FROM client_readers) FROM chunk_row_ids"
    ).fetchone()
    high_water_row_id, has_readers = row or (0, False)
    channels = _channels(connection, {client for client, _ in owned}) if has_readers else {}
    for (client, _), of_source in owned.items():
        message = payload(of_source, space_id, run_id, int(high_water_row_id))
        connection.execute("SELECT pg_notify(%s, %s)", [channels.get(client, CHANNEL), message])


def _channels(connection: psycopg.Connection, clients: Collection[str]) -> dict[str, str]:
    """Client -> name of its own channel, drawn by lot where it has none."""
    connection.execute(
        "INSERT INTO change_channels (client) SELECT unnest(%s::text[]) ON CONFLICT DO NOTHING",
        [sorted(clients)],
    )
    rows = connection.execute(
        "SELECT client, channel FROM change_channels WHERE client = ANY(%s)", [list(clients)]
    )
    return dict(rows.fetchall())


def payload(changes: list[Change], space_id: str | None, run_id: UUID | None, high_water_row_id: int) -> str:
    """The message for changes of one client and source; at most `MAX_PAYLOAD_BYTES` in UTF-8."""
    message: dict[str, Any] = {
        "client": storable_text(changes[0].client),
        "source": storable_text(changes[0].source),
        "run_id": run_id,
        "space_id": space_id,
        **{
            str(outcome): sum(change.outcome is outcome for change in changes)
            for outcome in (Outcome.NEW, Outcome.CHANGED, Outcome.DELETED)
        },
        "document_ids": [],
        "truncated": False,
        "high_water_row_id": high_water_row_id,
    }
    room = (MAX_PAYLOAD_BYTES - len(orjson.dumps(message))) // len(f'"{UUID(int=0)}",')
    message["document_ids"] = [change.document_id for change in changes[:room]]
    message["truncated"] = room < len(changes)
    return orjson.dumps(message).decode()
