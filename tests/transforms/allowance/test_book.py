"""The arithmetic of limits and budgets, without any store."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.allowances import Budget, RateLimit
from schemas.errors import BudgetUsedUp, LimitReached, LimitTooSmall
from tests.transforms.allowance.world import LAPSES_AFTER, NOON, request
from transforms.allowance.base import Estimate, Reservation
from transforms.allowance.book import (
    Book,
    day_nano,
    day_of,
    dump,
    lapsed,
    load,
    month_nano,
    month_of,
    nano_of,
    reserved,
    settled,
    turned,
    under_way_nano,
    usd_of,
    written_off,
)
from transforms.allowance.checks import Rules, crossings, refusal

NOON_S = NOON.timestamp()
EMPTY = Book(day_of(NOON_S), month_of(NOON_S))
CENT = nano_of(Decimal("0.01"))


def admitted(book: Book, estimate: Estimate, now_s: float = NOON_S) -> tuple[Book, Reservation]:
    reservation = Reservation(uuid4(), estimate)
    return reserved(turned(book, now_s), reservation, now_s), reservation


def test_a_settled_request_counts_what_it_came_to_and_a_released_one_nothing() -> None:
    book, first = admitted(EMPTY, request("acme", "0.02", tokens=200))
    book, second = admitted(book, request("acme", "0.01", tokens=100))
    assert month_nano(book, "openai") == day_nano(book, "*") == 3 * CENT
    book = settled(book, first.reservation_id, 150, CENT)
    book = settled(book, second.reservation_id, 0, 0)
    assert month_nano(book, "openai") == day_nano(book, "openai") == CENT
    assert sum(book.used["openai"].tokens.values()) == 150
    assert sum(book.used["openai"].requests.values()) == 2, "providers count those they refuse, too"
    assert book.held == {}
    assert settled(book, first.reservation_id, 150, CENT) == book


@given(st.decimals(0, 1000, places=14))
def test_a_book_never_counts_less_than_was_spent(usd: Decimal) -> None:
    assert usd <= usd_of(nano_of(usd)) < usd + Decimal("1e-9")


def test_a_reservation_made_twice_is_counted_once() -> None:
    book, reservation = admitted(EMPTY, request("acme"))
    assert reserved(book, reservation, NOON_S) == book


def test_a_lapsed_reservation_stays_counted_at_its_estimate() -> None:
    book, reservation = admitted(EMPTY, request("acme"))
    later_s = NOON_S + LAPSES_AFTER.total_seconds()
    assert lapsed(book, later_s - 0.001) == ()
    assert lapsed(book, later_s) == (reservation.reservation_id,)
    book = written_off(turned(book, later_s), [reservation.reservation_id])
    assert (month_nano(book, "*"), under_way_nano(book, "*", later_s), book.held) == (CENT, 0, {})


@pytest.mark.parametrize("settled_nano", [0, CENT // 2, CENT])
def test_what_is_under_way_at_midnight_counts_on_both_sides(settled_nano: int) -> None:
    eve_s = datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC).timestamp()
    book, over = admitted(EMPTY, request("acme", "0.05"), eve_s)
    book = settled(book, over.reservation_id, 1, 5 * CENT)
    book, reservation = admitted(book, request("acme"), eve_s)
    december = turned(book, eve_s + 2)
    assert month_nano(december, "*") == day_nano(december, "*") == CENT
    december = settled(december, reservation.reservation_id, 1, settled_nano)
    assert month_nano(december, "*") == day_nano(december, "*") == settled_nano


def test_what_lapsed_before_midnight_is_not_carried_over() -> None:
    book, reservation = admitted(EMPTY, request("acme"))
    tomorrow_s = NOON_S + 86_400
    book = turned(book, tomorrow_s)
    assert day_nano(book, "*") == 0
    assert month_nano(book, "*") == CENT
    book = settled(book, reservation.reservation_id, 0, 0)  # as the ledger says
    assert (day_nano(book, "*"), month_nano(book, "*")) == (0, 0)


def test_what_is_settled_after_its_month_takes_nothing_from_the_next() -> None:
    book, reservation = admitted(EMPTY, request("acme"))
    december = turned(book, NOON_S + 40 * 86_400)
    december = settled(december, reservation.reservation_id, 0, 0)  # as the ledger says
    assert (day_nano(december, "*"), month_nano(december, "*")) == (0, 0)


def test_a_clock_that_lags_behind_does_not_open_the_month_before_again() -> None:
    new_year_s = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
    book, _ = admitted(turned(EMPTY, new_year_s), request("acme"), new_year_s)
    assert turned(book, new_year_s - 5).month == book.month == month_of(new_year_s)
    assert month_nano(turned(book, new_year_s - 5), "*") == CENT


def test_a_book_is_read_as_it_was_written() -> None:
    book, _ = admitted(EMPTY, request("acme"), NOON_S + 0.1)
    assert load(dump(book)) == book


def test_a_request_counts_for_its_provider_and_for_all_together() -> None:
    rules = Rules(budgets=(Budget(client="acme", monthly_usd=Decimal("0.02")),))
    book, _ = admitted(EMPTY, request("acme", provider="openai"))
    book, _ = admitted(book, request("acme", provider="voyage"))
    assert (month_nano(book, "openai"), month_nano(book, "*")) == (CENT, 2 * CENT)
    assert rules.at("cohere") == rules
    assert refusal(book, rules, request("acme", provider="cohere"), NOON_S) is not None
    of_voyage = Rules(budgets=(Budget(client="acme", provider="voyage", monthly_usd=Decimal("0.01")),))
    assert not of_voyage.at("openai")


def test_a_used_up_budget_names_client_provider_month_and_what_to_do() -> None:
    rules = Rules(budgets=(Budget(client="acme", provider="openai", monthly_usd=Decimal("0.015")),))
    book, first = admitted(EMPTY, request("acme"))
    waiting = refusal(book, rules, request("acme"), NOON_S)
    assert waiting is not None
    assert isinstance(waiting.error, LimitReached), "what is under way may come to less"
    book = settled(book, first.reservation_id, 100, CENT)
    refused = refusal(book, rules, request("acme"), NOON_S)
    assert refused is not None
    assert isinstance(refused.error, BudgetUsedUp)
    said = str(refused.error)
    assert "client acme" in said
    assert "budget of $0.015 at openai in 2026-11" in said
    assert "headrace budgets" in said
    assert "2026-12-01" in said
    assert "\n" not in said


def test_a_soft_budget_refuses_nothing_and_is_crossed() -> None:
    soft = Budget(client="acme", monthly_usd=Decimal("0.01"), hard_limit=False)
    book, reservation = admitted(EMPTY, request("acme", "0.02"))
    assert refusal(book, Rules(budgets=(soft,)), request("acme"), NOON_S) is None
    assert list(crossings(book, "acme", Rules(budgets=(soft,)), NOON_S)) == []
    book = settled(book, reservation.reservation_id, 1, CENT * 8 // 10)
    assert [one.kind for one in crossings(book, "acme", Rules(budgets=(soft,)), NOON_S)] == ["threshold"]
    book, reservation = admitted(book, request("acme", "0.02"))
    book = settled(book, reservation.reservation_id, 1, CENT)
    assert [one.kind for one in crossings(book, "acme", Rules(budgets=(soft,)), NOON_S)] == [
        "threshold",
        "used_up",
    ]


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ({"tokens_per_hour": 99}, "tokens_per_hour of 99"),
        ({"cost_per_day_usd": "0.009"}, "cost_per_day of $0.009"),
    ],
)
def test_a_limit_that_no_request_fits_into_is_not_waited_for(limit: dict[str, object], said: str) -> None:
    rules = Rules(rates=(RateLimit.model_validate({"client": "acme", **limit}),))
    refused = refusal(EMPTY, rules, request("acme"), NOON_S)
    assert refused is not None
    assert isinstance(refused.error, LimitTooSmall)
    assert said in str(refused.error)


def test_a_day_is_over_at_midnight_utc() -> None:
    rules = Rules(rates=(RateLimit(client="acme", cost_per_day_usd=Decimal("0.01")),))
    book, _ = admitted(EMPTY, request("acme"))
    refused = refusal(book, rules, request("acme"), NOON_S)
    assert refused is not None
    assert isinstance(refused.error, LimitReached)
    assert (refused.error.kind, refused.error.retry_after_s) == ("cost_per_day", 12 * 3600)
    midnight_s = NOON_S + 12 * 3600
    assert refusal(turned(book, midnight_s), rules, request("acme"), midnight_s) is None


@given(
    steps=st.lists(
        st.tuples(st.floats(0, 100), st.integers(1, 40), st.floats(0, 1)), min_size=1, max_size=40
    ),
    requests=st.integers(1, 6),
    tokens=st.integers(40, 100),
)
def test_no_window_ever_holds_more_than_its_limit_and_waiting_as_told_is_enough(
    steps: list[tuple[float, int, float]], requests: int, tokens: int
) -> None:
    """Whatever the pace: in any 60 seconds, and any 60 minutes, as counted from outside."""
    rules = Rules(
        rates=(
            RateLimit(client="acme", requests_per_minute=requests),
            RateLimit(client="acme", provider="openai", tokens_per_hour=tokens),
        )
    )
    book, now_s, made = EMPTY, NOON_S, list[tuple[float, int]]()
    for pause_s, wanted, share in steps:
        now_s += pause_s
        estimate = request("acme", tokens=wanted)
        book = turned(book, now_s)
        refused = refusal(book, rules, estimate, now_s)
        if refused is not None:
            assert isinstance(refused.error, LimitReached)
            now_s += refused.error.retry_after_s
            book = turned(book, now_s)
            assert refusal(book, rules, estimate, now_s) is None
        book, reservation = admitted(book, estimate, now_s)
        used = int(wanted * share)
        book = settled(book, reservation.reservation_id, used, 0)
        made.append((now_s, used))
        assert sum(at_s > now_s - 60 for at_s, _ in made) <= requests
        assert sum(count for at_s, count in made if at_s > now_s - 3600) <= tokens


def test_a_limit_is_used_to_all_but_a_thirtieth() -> None:
    """Buckets count for a little longer than the window."""
    rules = Rules(rates=(RateLimit(client="acme", requests_per_minute=10),))
    book, now_s, made = EMPTY, NOON_S, 0
    while now_s < NOON_S + 600:
        refused = refusal(turned(book, now_s), rules, request("acme"), now_s)
        if refused is None:
            book, _ = admitted(book, request("acme"), now_s)
            made += 1
        else:
            assert isinstance(refused.error, LimitReached)
            now_s += refused.error.retry_after_s
    assert 600 / 60 * 10 * 30 / 31 <= made <= 100
