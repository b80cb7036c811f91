"""How endpoints have done of late, as the ledger has it, and how their breakers stand."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg
from psycopg.rows import class_row

from schemas.usage import UNFINISHED

WINDOW = timedelta(minutes=15)
MAX_CALLS = 1000
"""Of an endpoint, the latest ones within the window."""


@dataclass(frozen=True, slots=True)
class EndpointHealth:
    """One endpoint in the last quarter of an hour.

    Args:
        state: `closed` is asked, `open` is not, `half-open` is being tried.
        calls: ended and looked at, 1,000 at most.
        rate_limited: of them, told to wait; neither good nor bad.
        success: share of the others that was answered, or that refused a text, 0 to 1; None without any.
        p50_s: latency of those answered, median.
        p95_s: as `p50_s`, 95th percentile.
        retry_at: not asked before.
        reason: why it is not closed.
    """

    integration: str
    state: str
    calls: int
    rate_limited: int
    success: float | None
    p50_s: float | None
    p95_s: float | None
    retry_at: datetime | None
    reason: str | None


_READ = """
SELECT i.name AS integration, coalesce(s.state, 'closed') AS state, c.calls, c.rate_limited, c.success, c.p50_s,
       c.p95_s, s.retry_at, s.reason
FROM integrations AS i
LEFT JOIN endpoint_states AS s ON s.integration = i.name
CROSS JOIN LATERAL (
    SELECT count(*) AS calls,
           count(*) FILTER (WHERE error_type = 'RateLimited') AS rate_limited,
           (count(*) FILTER (WHERE error_type IS NULL OR error_type = 'InputRefused'))::float8
               / nullif(count(*) FILTER (WHERE error_type IS DISTINCT FROM 'RateLimited'), 0) AS success,
           percentile_cont(0.5) WITHIN GROUP (ORDER BY latency_s) FILTER (WHERE error_type IS NULL) AS p50_s,
           percentile_cont(0.95) WITHIN GROUP (ORDER BY latency_s) FILTER (WHERE error_type IS NULL) AS p95_s
    FROM (
        SELECT error_type, latency_s FROM ai_usage_tracking
        WHERE integration = i.name AND operation <> 'moderate' AND occurred_at > %(since)s
              AND error_type IS DISTINCT FROM %(unfinished)s
        ORDER BY occurred_at DESC LIMIT %(most)s
    ) AS latest
) AS c
ORDER BY i.name
"""


def endpoint_health(connection: psycopg.Connection, now: datetime | None = None) -> list[EndpointHealth]:
    """Health of all endpoints, by name; one query, whatever the ledger holds."""
    since = (now or datetime.now(UTC)) - WINDOW
    with connection.cursor(row_factory=class_row(EndpointHealth)) as cursor:
        values = {"since": since, "most": MAX_CALLS, "unfinished": UNFINISHED}
        return cursor.execute(_READ, values).fetchall()
