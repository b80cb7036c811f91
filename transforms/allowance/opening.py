"""Which allowance the configuration asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from schemas.allowances import AllowanceSettings
from schemas.errors import BadConfig
from schemas.sections import resolve_secret
from transforms.allowance.alerts import post_to
from transforms.allowance.base import Allowance
from transforms.allowance.postgres import Books, PostgresBooks
from transforms.allowance.shared import SharedAllowance
from transforms.postgres import Session, Store

STATEMENT_TIMEOUT_S = 30
"""Of any statement for an allowance: a request waits for it."""


def open_allowance(settings: AllowanceSettings, store: Store, clock: Callable[[], datetime]) -> Allowance:
    """The allowance that all workers share by these settings.

    Args:
        store: the database of rules and ledger, and of the books unless `settings.kind` is "redis".
        clock: gives the time, UTC.
    Raises:
        BadConfig: `allowance.url` or `allowance.webhook` lead nowhere, Redis does not answer, or the package `redis`
            is not installed.
    """
    post = post_to(_webhook(settings))
    quick = replace(store, statement_timeout_s=min(store.statement_timeout_s, STATEMENT_TIMEOUT_S))
    session = Session(quick)
    try:
        return SharedAllowance(open_books(settings, session), session, clock, post)
    except BaseException:
        session.close()
        raise


def _webhook(settings: AllowanceSettings) -> str | None:
    if settings.webhook is None:
        return None
    url = resolve_secret(settings.webhook, "allowance.webhook")
    if not url.startswith(("https://", "http://")):
        raise BadConfig("allowance.webhook: what it refers to is no URL: expected https://... or http://...")
    return url


def open_books(settings: AllowanceSettings, session: Session) -> Books:
    """Where the books are kept.

    Raises:
        BadConfig: as `open_allowance`.
    """
    if settings.kind == "postgres":
        return PostgresBooks(session)
    try:
        from transforms.allowance.redis import RedisBooks, connect
    except ImportError:
        raise BadConfig(
            'allowance.kind: "redis" needs the package redis: pip install "headrace[redis]", or choose "postgres"'
        ) from None
    return RedisBooks(connect(resolve_secret(settings.url or "", "allowance.url")), session)
