"""An allowance that all workers share."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from uuid import UUID, uuid4

from schemas.errors import LimitReached, PipelineError, SetupError
from transforms.allowance.alerts import raise_alert
from transforms.allowance.base import Estimate, Reservation
from transforms.allowance.book import (
    GRACE_S,
    Book,
    lapsed,
    nano_of,
    reserved,
    settled,
    turned,
    written_off,
)
from transforms.allowance.checks import Crossing, Refusal, Rules, crossings, refusal
from transforms.allowance.ledger import costs_of
from transforms.allowance.postgres import Books
from transforms.allowance.rules import read_rules
from transforms.postgres import Session

RULES_KEPT_FOR = timedelta(minutes=5)
"""A rule that was changed is followed after that; at once, where a request would be refused for good."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a look into the book gave.

    Args:
        crossed: levels of budgets that are reached, one that refuses included.
        lapsed: reservations in it that nobody settled in time.
    """

    refused: Refusal | None
    crossed: tuple[Crossing, ...]
    lapsed: tuple[UUID, ...]


class SharedAllowance:
    """Implements `base.Allowance` over books that all workers share.

    Args:
        session: for rules, the ledger and alerts; only used under this object's lock, as are the books.
        clock: gives the time, UTC.
        post: hands alerts to a webhook.
    """

    def __init__(
        self,
        books: Books,
        session: Session,
        clock: Callable[[], datetime],
        post: Callable[[bytes], None],
    ) -> None:
        self._books = books
        self._session = session
        self._clock = clock
        self._post = post
        self._lock = threading.Lock()
        self._rules: dict[str, tuple[datetime, Rules]] = {}
        self._told: set[tuple[str, str, int, str, int]] = set()

    def reserve(self, estimate: Estimate) -> Reservation:
        with self._lock:
            now = self._clock()
            reservation = Reservation(uuid4(), estimate)
            rules = self._rules_of(estimate, now)
            if not rules:
                return Reservation(reservation.reservation_id, estimate, counted=False)
            answer = self._reserve(reservation, rules, now)
            if answer.refused is not None and isinstance(answer.refused.error, SetupError):
                rules = self._rules_of(estimate, now, fresh=True)
                answer = self._reserve(reservation, rules, now)
            self._tell(answer.crossed, now)
            if answer.refused is not None:
                raise answer.refused.error
            return reservation

    def settle(self, reservation: Reservation, tokens: int, usd: Decimal) -> None:
        self._end(reservation, tokens, nano_of(usd))

    def release(self, reservation: Reservation) -> None:
        self._end(reservation, 0, 0)

    def close(self) -> None:
        with self._lock:
            self._books.close()
            self._session.close()

    def _rules_of(self, estimate: Estimate, now: datetime, fresh: bool = False) -> Rules:
        read_at, rules = self._rules.get(estimate.client, (None, Rules()))
        if fresh or read_at is None or now - read_at >= RULES_KEPT_FOR:
            rules = self._session.run(lambda connection: read_rules(connection, estimate.client))
            self._rules[estimate.client] = (now, rules)
        return rules.at(estimate.provider)

    def _reserve(self, reservation: Reservation, rules: Rules, now: datetime) -> _Answer:
        estimate, now_s = reservation.estimate, now.timestamp()
        until = now + timedelta(seconds=estimate.duration_s + GRACE_S)

        def work(stored: Book) -> tuple[Book, _Answer]:
            book = turned(stored, now_s)
            overdue = lapsed(book, now_s)
            if reservation.reservation_id in book.held:  # the answer to an earlier try was lost
                return stored, _Answer(None, (), overdue)
            refused = refusal(book, rules, estimate, now_s)
            crossed = tuple(crossings(book, estimate.client, rules, now_s))
            if refused is not None:
                used_up = () if refused.crossing is None else (refused.crossing,)
                return stored, _Answer(refused, crossed + used_up, overdue)
            return reserved(book, reservation, now_s), _Answer(None, crossed, overdue)

        answer = self._books.change(estimate.client, now, until, work)
        if answer.lapsed:
            self._ask_ledger(estimate.client, answer.lapsed, now)
            if answer.refused is not None:
                answer = self._books.change(estimate.client, now, until, work)
        return answer

    def _ask_ledger(self, client: str, reservation_ids: Sequence[UUID], now: datetime) -> None:
        """End reservations that lapsed: at what the ledger says, or else at their estimates."""
        costs = self._session.run(lambda connection: costs_of(connection, reservation_ids))
        now_s = now.timestamp()

        def work(stored: Book) -> tuple[Book, None]:
            book = turned(stored, now_s)
            for reservation_id, (tokens, usd) in costs.items():
                book = settled(book, reservation_id, tokens, nano_of(usd))
            return written_off(book, reservation_ids), None

        self._books.change(client, now, now, work)

    def _end(self, reservation: Reservation, tokens: int, nano: int) -> None:
        if not reservation.counted:
            return
        with self._lock:
            try:
                self._settle(reservation, tokens, nano)
            except LimitReached:  # the book is lost, and the next will come from the ledger
                _log.debug("settled while the book is counted anew")
            except PipelineError as error:
                _log.warning(
                    "a request of client %s counts at its estimate: %s", reservation.estimate.client, error
                )

    def _settle(self, reservation: Reservation, tokens: int, nano: int) -> None:
        now = self._clock()
        now_s = now.timestamp()
        client = reservation.estimate.client
        rules = self._rules_of(reservation.estimate, now)

        def work(stored: Book) -> tuple[Book, tuple[Crossing, ...]]:
            book = settled(turned(stored, now_s), reservation.reservation_id, tokens, nano)
            return book, tuple(crossings(book, client, rules, now_s))

        self._tell(self._books.change(client, now, now, work), now)

    def _tell(self, crossed: Sequence[Crossing], now: datetime) -> None:
        for crossing in crossed:
            key = (crossing.client, crossing.provider, crossing.month, crossing.kind, crossing.level_nano)
            if key in self._told:
                continue
            try:
                self._session.run(partial(raise_alert, crossing=crossing, now=now, post=self._post))
            except PipelineError as error:  # the next request tries again
                _log.warning("an alert of client %s is not stored: %s", crossing.client, error)
            else:
                self._told.add(key)
