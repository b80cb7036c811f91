"""Whatever workers do in whatever order: nothing is overspent, nothing counts below zero, nothing is forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from schemas.allowances import Budget, RateLimit
from schemas.errors import BudgetUsedUp, LimitReached
from tests.transforms.allowance.world import LAPSES_AFTER, World, bill, new_client, request
from tests.transforms.allowance.world import rule as write_rule
from transforms.allowance.base import Reservation
from transforms.allowance.book import Book, month_nano, month_of, usd_of
from transforms.allowance.shared import SharedAllowance

PROVIDERS = ("openai", "voyage")
BUDGET, BUDGET_OF_OPENAI, DAILY = Decimal("0.30"), Decimal("0.20"), Decimal("0.15")
REQUESTS_PER_MINUTE, TOKENS_PER_HOUR = 7, 2500

LATE = datetime(2026, 11, 30, 22, 59, 30, tzinfo=UTC)
"""So that days and months end, too."""

cents = st.integers(0, 60).map(lambda tenths: Decimal(tenths) / 1000)
shares = st.sampled_from([Decimal(0), Decimal("0.3"), Decimal(1)])


class Workers(RuleBasedStateMachine):
    """Two workers of one client, one of which may die between any two steps; what is billed is known from outside."""

    def __init__(
        self, world: World, connection: psycopg.Connection, workers: Sequence[SharedAllowance]
    ) -> None:
        super().__init__()
        self.world, self.connection = world, connection
        self.client = new_client()
        world.clock.now = LATE
        write_rule(
            connection,
            Budget(client=self.client, monthly_usd=BUDGET),
            Budget(client=self.client, provider="openai", monthly_usd=BUDGET_OF_OPENAI),
            RateLimit(client=self.client, provider="voyage", cost_per_day_usd=DAILY),
            RateLimit(
                client=self.client, requests_per_minute=REQUESTS_PER_MINUTE, tokens_per_hour=TOKENS_PER_HOUR
            ),
        )
        self.workers = workers
        self.under_way: list[Reservation] = []
        self.made: list[tuple[float, int]] = []
        self.billed: list[tuple[str, str, str, Decimal]] = []

    @rule(
        worker=st.integers(0, 1), provider=st.sampled_from(PROVIDERS), usd=cents, tokens=st.integers(0, 1000)
    )
    def ask(self, worker: int, provider: str, usd: Decimal, tokens: int) -> None:
        try:
            granted = self.workers[worker].reserve(request(self.client, usd, tokens, provider))
        except (LimitReached, BudgetUsedUp):
            return
        self.under_way.append(granted)
        self.made.append((self.world.clock().timestamp(), tokens))

    @precondition(lambda self: self.under_way)
    @rule(worker=st.integers(0, 1), which=st.integers(0, 99), share=shares)
    def answered(self, worker: int, which: int, share: Decimal) -> None:
        granted = self._taken(which)
        self._bill(granted, share)
        self.workers[worker].settle(
            granted, int(granted.estimate.tokens * share), granted.estimate.usd * share
        )

    @precondition(lambda self: self.under_way)
    @rule(worker=st.integers(0, 1), which=st.integers(0, 99))
    def refused(self, worker: int, which: int) -> None:
        self.workers[worker].release(self._taken(which))

    @precondition(lambda self: self.under_way)
    @rule(which=st.integers(0, 99), share=shares, in_ledger=st.booleans())
    def its_worker_dies(self, which: int, share: Decimal, in_ledger: bool) -> None:
        """Before or after the row of the ledger; billed it was either way."""
        granted = self._taken(which)
        self._bill(granted, share if in_ledger else Decimal(1), in_ledger)

    @rule(seconds=st.sampled_from([0.5, 7, 45, 100, 1800, 30_000]))
    def time_passes(self, seconds: float) -> None:
        """Reservations that are still under way after their time are those of workers that hang for ever."""
        for _ in range(len(self.under_way) if seconds >= 45 else 0):
            self._bill(self._taken(0), Decimal(1), in_ledger=False)
        self.world.clock.pass_(timedelta(seconds=seconds))

    @invariant()
    def nothing_is_overspent(self) -> None:
        """By the month and day of the bill, which is the reckoning of an invoice."""
        now = self.world.clock()
        reserved = [(one.estimate.provider, one.estimate.usd) for one in self.under_way]
        month = [(provider, usd) for provider, m, _, usd in self.billed if m == f"{now:%Y-%m}"] + reserved
        day = [(provider, usd) for provider, _, d, usd in self.billed if d == f"{now:%Y-%m-%d}"] + reserved
        assert sum(usd for _, usd in month) <= BUDGET
        assert sum(usd for provider, usd in month if provider == "openai") <= BUDGET_OF_OPENAI
        assert sum(usd for provider, usd in day if provider == "voyage") <= DAILY
        assert sum(at_s > now.timestamp() - 60 for at_s, _ in self.made) <= REQUESTS_PER_MINUTE

    @invariant()
    def the_book_is_never_below_what_is_billed_nor_below_zero(self) -> None:
        book = self.world.book(self.client)
        assert all(count >= 0 for count in _counts(book))
        month = month_of(self.world.clock().timestamp())
        billed = sum(usd for _, m, _, usd in self.billed if m == f"{self.world.clock():%Y-%m}")
        assert book.month < month or usd_of(month_nano(book, "*")) >= billed

    def teardown(self) -> None:
        """Once everything is over, what was billed is counted, and nothing else."""
        for _ in self.under_way[:]:
            self._bill(self._taken(0), Decimal(1), in_ledger=False)
        self.world.clock.pass_(LAPSES_AFTER)
        for _ in range(2):  # the first finds what lapsed
            with suppress(LimitReached, BudgetUsedUp):
                self.workers[0].release(self.workers[0].reserve(request(self.client, "0", 0)))
        month = f"{self.world.clock():%Y-%m}"
        assert self.world.book(self.client).held == {}
        assert self.world.spent(self.client) == sum(usd for _, m, _, usd in self.billed if m == month)

    def _taken(self, which: int) -> Reservation:
        return self.under_way.pop(which % len(self.under_way))

    def _bill(self, granted: Reservation, share: Decimal, in_ledger: bool = True) -> None:
        now, usd = self.world.clock(), granted.estimate.usd * share
        self.billed.append((granted.estimate.provider, f"{now:%Y-%m}", f"{now:%Y-%m-%d}", usd))
        if in_ledger:
            bill(self.connection, granted, now, int(granted.estimate.tokens * share), usd)


def _counts(book: Book) -> list[int]:
    used = book.used.values()
    return [
        count
        for one in used
        for count in (*one.requests.values(), *one.tokens.values(), one.day_nano, one.month_nano)
    ]


def test_no_order_of_events_overspends(world: World, connection: psycopg.Connection) -> None:
    workers = [world.worker(), world.worker()]
    run_state_machine_as_test(
        lambda: Workers(world, connection, workers),
        settings=settings(max_examples=20, stateful_step_count=25, deadline=None),
    )
