"""Postgres away in the middle of a run: what is waited for, and for how long."""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from transforms.postgres import Store, is_transient

WAIT_S = 60.0
"""A server that is started anew, or fails over to another, is back by then; one that is not wants a person."""
LONGEST_PAUSE_S = 5.0
MOST_IN_A_ROW = 3
"""With no slice stored in between: what ends the server may be what we ask of it."""


def is_lost(connection: psycopg.Connection) -> bool:
    """Whether a connection is of no use any more, and with it the locks that it held."""
    try:
        connection.execute("SELECT 1")
    except (psycopg.OperationalError, psycopg.InterfaceError):
        return True
    return False


def connect_again(
    store: Store,
    waiting: Callable[[str, float], None],
    timeout_s: float = WAIT_S,
    sleep: Callable[[float], None] = time.sleep,
) -> psycopg.Connection:
    """A new connection, as soon as Postgres gives one.

    Args:
        waiting: told why, and for how many seconds at the most.
    Raises:
        DatabaseUnreachable: it gave none in time.
    """

    def tell(state: RetryCallState) -> None:
        waiting("Postgres does not answer", max(0.0, timeout_s - (state.seconds_since_start or 0.0)))

    retrying = Retrying(
        retry=retry_if_exception(is_transient),
        stop=stop_after_delay(timeout_s),
        wait=wait_random_exponential(multiplier=0.5, max=LONGEST_PAUSE_S),
        before_sleep=tell,
        sleep=sleep,
        reraise=True,
    )
    connection: psycopg.Connection = retrying(store.connect)
    return connection
