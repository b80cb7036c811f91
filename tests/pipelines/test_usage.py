"""Periods and columns are read strictly, and cents add up."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.usage import in_cents, parse_columns, parse_months, parse_period, rounded
from transforms.usage_sums import Period

TODAY = date(2026, 3, 2)


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("1d", "2026-03-02", "2026-03-02"),
        ("7d", "2026-02-24", "2026-03-02"),
        ("2024-02", "2024-02-01", "2024-02-29"),
        ("2026-11-20", "2026-11-20", "2026-11-20"),
        ("2026-11-01..2026-11-20", "2026-11-01", "2026-11-20"),
        ("2025-12..2026-01", "2025-12-01", "2026-01-31"),
        ("2025-12-24..2026-01", "2025-12-24", "2026-01-31"),
    ],
)
def test_a_period_has_both_of_its_ends(text: str, first: str, last: str) -> None:
    assert parse_period(text, TODAY) == Period(date.fromisoformat(first), date.fromisoformat(last))


@pytest.mark.parametrize(
    "text",
    [
        *("", "d", "0d", "-3d", "99999d", "7", "2026", "2026-13", "2026-02-30", "2026-11..", "..", "a..b"),
        *("2026-11..2026-10", "2026-11-1", "2026-11..2026-12..2027-01", "\uff107d", "2026-11\n"),
    ],
)
def test_what_is_no_period_is_refused_with_what_is_one(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected days \(7d\), a month"):
        parse_period(text, TODAY)


def test_a_chargeback_is_of_whole_months() -> None:
    assert parse_months("2026-10..2026-11") == Period(date(2026, 10, 1), date(2026, 11, 30))
    for text in ("7d", "2026-11-20", "2026-11-01..2026-11-30"):
        with pytest.raises(ValueError, match="expected a month"):
            parse_months(text)


def test_columns_are_those_of_the_ledger_each_once() -> None:
    assert parse_columns("model, client,model") == ("model", "client")
    for text in ("", "client,cost", "client;DROP TABLE documents"):
        with pytest.raises(ValueError, match="expected some of day, month, client"):
            parse_columns(text)


AMOUNTS = st.lists(
    st.builds(lambda n, places: Decimal(n).scaleb(-places), st.integers(0, 10**18), st.integers(0, 24))
)


@given(AMOUNTS)
def test_cents_add_up_to_the_rounded_total_and_none_is_a_cent_off(amounts: list[Decimal]) -> None:
    cents = in_cents(amounts)
    exact = sum(map(Fraction, amounts), Fraction(0))
    assert sum(map(Fraction, cents), Fraction(0)) == Fraction(int(exact * 100 + Fraction(1, 2)), 100)
    for amount, charge in zip(amounts, cents, strict=True):
        assert charge.as_tuple().exponent == -2
        assert abs(Fraction(charge) - Fraction(amount)) < Fraction(1, 100)


def test_halves_of_a_cent_are_rounded_up_once_and_not_for_each_client() -> None:
    assert rounded(Decimal("0.005")) == Decimal("0.01")
    assert in_cents([Decimal("0.005")] * 4) == [Decimal("0.01")] * 2 + [Decimal("0.00")] * 2
