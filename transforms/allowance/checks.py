"""Whether a request has room in a client's book, and which levels of its budgets are crossed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from schemas.allowances import EVERY, Budget, RateLimit
from schemas.errors import BudgetUsedUp, LimitReached, LimitTooSmall
from transforms.allowance.base import Estimate
from transforms.allowance.book import (
    BUCKETS,
    DAY_S,
    HOUR_S,
    MINUTE_S,
    Book,
    day_nano,
    first_day,
    month_nano,
    nano_of,
    requests_of,
    tokens_of,
    under_way_nano,
    usd_of,
)

UNDER_WAY_RETRY_S = 1.0
"""Requests under way hold what is left, and may leave some: when to ask again."""

AlertKind = Literal["threshold", "used_up"]


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for one client; all of it that concerns a provider must have room for a request."""

    rates: tuple[RateLimit, ...] = ()
    budgets: tuple[Budget, ...] = ()

    def at(self, provider: str) -> Rules:
        """Those that a request to `provider` counts in."""
        return Rules(
            tuple(rule for rule in self.rates if rule.provider in (provider, EVERY)),
            tuple(rule for rule in self.budgets if rule.provider in (provider, EVERY)),
        )

    def __bool__(self) -> bool:
        return bool(self.rates or self.budgets)


@dataclass(frozen=True, slots=True)
class Crossing:
    """A level of a budget that was reached.

    Args:
        month: since the year 0.
        level_nano: of 10^-9 dollars, as are the others.
        spent_nano: without what is under way.
    """

    client: str
    provider: str
    month: int
    kind: AlertKind
    level_nano: int
    monthly_nano: int
    spent_nano: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request has no room, in words that are the same for all that have none for the same reason.

    Args:
        crossing: the budget that is used up, if that is why.
    """

    error: LimitReached | LimitTooSmall | BudgetUsedUp
    crossing: Crossing | None = None


def refusal(book: Book, rules: Rules, estimate: Estimate, now_s: float) -> Refusal | None:
    """Why `estimate` has no room; None where it has.

    Args:
        book: turned to now.
        rules: that concern the estimate's provider.
    """
    for budget in rules.budgets:
        if (refused := _beyond_budget(book, budget, estimate, now_s)) is not None:
            return refused
    errors = [error for rate in rules.rates for error in _beyond_rate(book, rate, estimate, now_s)]
    hopeless = [error for error in errors if isinstance(error, LimitTooSmall)]
    if hopeless:
        return Refusal(hopeless[0])
    waits = [error for error in errors if isinstance(error, LimitReached)]
    return Refusal(max(waits, key=lambda error: error.retry_after_s)) if waits else None


def crossings(book: Book, client: str, rules: Rules, now_s: float) -> Iterator[Crossing]:
    """Levels of budgets that are reached by what is spent."""
    for budget in rules.budgets:
        spent = month_nano(book, budget.provider) - under_way_nano(book, budget.provider, now_s)
        for kind, level in _levels(budget).items():
            if spent >= level > 0:
                yield Crossing(
                    client, budget.provider, book.month, kind, level, nano_of(budget.monthly_usd), spent
                )


def remaining_usd(book: Book, rules: Rules, provider: str) -> Decimal | None:
    """What the month's hard limits leave for a provider, at least 0; None where there is none."""
    left = [
        usd_of(nano_of(budget.monthly_usd) - month_nano(book, budget.provider))
        for budget in rules.at(provider).budgets
        if budget.hard_limit
    ]
    return max(min(left), Decimal(0)) if left else None


def _levels(budget: Budget) -> Mapping[AlertKind, int]:
    return {
        "threshold": nano_of(budget.monthly_usd * budget.alert_threshold),
        "used_up": nano_of(budget.monthly_usd),
    }


def _beyond_budget(book: Book, budget: Budget, estimate: Estimate, now_s: float) -> Refusal | None:
    limit, needed = nano_of(budget.monthly_usd), nano_of(estimate.usd)
    counted = month_nano(book, budget.provider)
    if not budget.hard_limit or counted + needed <= limit:
        return None
    spent = counted - under_way_nano(book, budget.provider, now_s)
    month = first_day(book.month)
    if spent + needed <= limit:
        return Refusal(
            LimitReached(
                f"requests under way hold what is left of the budget of client {estimate.client} {_at(budget)}"
                f" in {month:%Y-%m}",
                UNDER_WAY_RETRY_S,
                "monthly_budget",
            )
        )
    error = BudgetUsedUp(
        f"client {estimate.client} has used up its budget of ${budget.monthly_usd:f} {_at(budget)} in {month:%Y-%m}:"
        f" raise monthly_usd (`headrace budgets`), or run again from {first_day(book.month + 1):%Y-%m-%d} (UTC)"
    )
    crossing = Crossing(estimate.client, budget.provider, book.month, "used_up", limit, limit, spent)
    return Refusal(error, crossing)


def _beyond_rate(
    book: Book, rate: RateLimit, estimate: Estimate, now_s: float
) -> Iterator[LimitReached | LimitTooSmall]:
    windows = (
        ("requests_per_minute", rate.requests_per_minute, requests_of, estimate.requests, MINUTE_S),
        ("tokens_per_hour", rate.tokens_per_hour, tokens_of, estimate.tokens, HOUR_S),
    )
    for kind, limit, counted_of, needed, window_s in windows:
        if limit is None:
            continue
        buckets = counted_of(book, rate.provider)
        if needed > limit:
            yield _too_small(rate, kind, f"{limit:,}", estimate)
        elif sum(buckets.values()) + needed > limit:
            wait_s = _until_room_s(buckets, window_s, limit - needed, now_s)
            yield _reached(rate, kind, f"{limit:,}", estimate, wait_s)
    if rate.cost_per_day_usd is not None:
        limit, needed = nano_of(rate.cost_per_day_usd), nano_of(estimate.usd)
        if needed > limit:
            yield _too_small(rate, "cost_per_day", f"${usd_of(limit):f}", estimate)
        elif day_nano(book, rate.provider) + needed > limit:
            tomorrow_s = (book.day + 1) * DAY_S
            yield _reached(rate, "cost_per_day", f"${usd_of(limit):f}", estimate, tomorrow_s - now_s)


def _until_room_s(buckets: Mapping[int, int], window_s: int, room: int, now_s: float) -> float:
    """Seconds until so many old buckets have left the window that at most `room` is counted."""
    counted = sum(buckets.values())
    for bucket in sorted(buckets):
        counted -= buckets[bucket]
        if counted <= room:
            left_s = (bucket + 1) * window_s / BUCKETS + window_s
            return max(left_s - now_s, 0) + 0.001
    return float(window_s)


def _reached(rate: RateLimit, kind: str, limit: str, estimate: Estimate, wait_s: float) -> LimitReached:
    return LimitReached(
        f"client {estimate.client} has reached its {kind} of {limit} {_at(rate)}", wait_s, kind
    )


def _too_small(rate: RateLimit, kind: str, limit: str, estimate: Estimate) -> LimitTooSmall:
    return LimitTooSmall(
        f"client {estimate.client} has a {kind} of {limit} {_at(rate)}, less than one request takes: raise it, or"
        " lower max_request_tokens of the integration"
    )


def _at(rule: RateLimit | Budget) -> str:
    return "at all providers" if rule.provider == EVERY else f"at {rule.provider}"
