"""Tell people that a budget has reached a level: a log line, a row, `NOTIFY headrace_alerts`, a webhook.

Once for each level, month and budget, however many workers see it at once: whoever inserts the row tells the others.
A budget that is raised has new levels. Whoever may connect may listen, so once any role reads a client
(`headrace readers grant`), the message in Postgres is empty: look into `ai_budget_alerts`. Else, and to the webhook,
it is one JSON object:

    client, provider   whose budget, and where ("*": at all providers)
    month              as 2026-11
    kind               threshold, or used_up
    level_usd          that was reached
    monthly_usd        the budget
    spent_usd          when it was noticed
    raised_at          when that was
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

import httpx
import orjson
import psycopg

from transforms.allowance.book import first_day, usd_of
from transforms.allowance.checks import Crossing

CHANNEL = "headrace_alerts"
WEBHOOK_TIMEOUT_S = 5.0
"""For all of it: nobody waits longer for an alert."""

_log = logging.getLogger(__name__)


def raise_alert(
    connection: psycopg.Connection, crossing: Crossing, now: datetime, post: Callable[[bytes], None]
) -> bool:
    """Tell of `crossing` unless that was done.

    Args:
        post: hands the message to a webhook; called after the alert is stored, and never again for it.
    Returns:
        Whether it was told now.
    """
    message = message_of(crossing, now)
    with connection.transaction():
        stored = connection.execute(
            "INSERT INTO ai_budget_alerts"
            " (client, provider, month, kind, level_usd, monthly_usd, spent_usd, raised_at)"
            " VALUES (%(client)s, %(provider)s, %(first_day)s, %(kind)s, %(level_usd)s, %(monthly_usd)s,"
            " %(spent_usd)s, %(raised_at)s) ON CONFLICT DO NOTHING",
            {**message, "first_day": first_day(crossing.month).date()},
        )
        if not stored.rowcount:
            return False
        connection.execute(
            "SELECT pg_notify(%s, CASE WHEN EXISTS (SELECT FROM client_readers) THEN '' ELSE %s END)",
            [CHANNEL, orjson.dumps(message).decode()],
        )
    _log.warning(
        "budget of client %s at %s in %s: $%s of $%s are spent (%s)",
        *(message[key] for key in ("client", "provider", "month", "spent_usd", "monthly_usd", "kind")),
    )
    post(orjson.dumps(message))
    return True


def message_of(crossing: Crossing, now: datetime) -> dict[str, Any]:
    """What is said of `crossing`; dollars are decimals in strings."""
    return {
        "client": crossing.client,
        "provider": crossing.provider,
        "month": f"{first_day(crossing.month):%Y-%m}",
        "kind": crossing.kind,
        "level_usd": f"{usd_of(crossing.level_nano):f}",
        "monthly_usd": f"{usd_of(crossing.monthly_nano):f}",
        "spent_usd": f"{usd_of(crossing.spent_nano):f}",
        "raised_at": now.isoformat(),
    }


def post_to(url: str | None) -> Callable[[bytes], None]:
    """Posts messages to `url`; nowhere if it is None.

    In a thread of its own that is left behind after `WEBHOOK_TIMEOUT_S`: an address that answers by the drop holds up
    nobody. What went wrong is logged without the address, which may hold a secret.
    """

    def post(message: bytes) -> None:
        if url is None:
            return
        thread = threading.Thread(target=_post, args=(url, message), name="alert", daemon=True)
        thread.start()
        thread.join(WEBHOOK_TIMEOUT_S)
        if thread.is_alive():
            _log.warning("allowance.webhook: no answer in %s s; the alert is stored", WEBHOOK_TIMEOUT_S)

    return post


def _post(url: str, message: bytes) -> None:
    try:
        with httpx.stream(
            "POST",
            url,
            content=message,
            headers={"Content-Type": "application/json"},
            timeout=WEBHOOK_TIMEOUT_S,
            follow_redirects=False,
        ) as response:
            if not response.is_success:
                _log.warning("allowance.webhook answers %d; the alert is stored", response.status_code)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        _log.warning("allowance.webhook fails (%s); the alert is stored", type(error).__name__)
