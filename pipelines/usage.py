"""What was used and what it cost: sums of the ledger, what each client is to be charged, and what gateways say."""

from __future__ import annotations

import calendar
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import ROUND_FLOOR, Context, Decimal, localcontext

from schemas.config import Config
from transforms.postgres import open_store
from transforms.usage_sums import COLUMNS, Column, Period, UsageRow, UsageSums, sum_usage

CENT = Decimal("0.01")
EXACT = Context(prec=100)
"""Python rounds sums to 28 digits otherwise."""
MAX_DAYS = 36_525
_DAYS = re.compile(r"([1-9]\d{0,4})d")
_MONTH = re.compile(r"(\d{4})-(\d{2})")
_DAY = re.compile(r"(\d{4})-(\d{2})-(\d{2})")


@dataclass(frozen=True, slots=True)
class UsageReport:
    """Sums of a period, and over all rows."""

    period: Period
    rows: Sequence[UsageRow]
    total: UsageSums


@dataclass(frozen=True, slots=True)
class Charge:
    """What a client used in a month.

    Args:
        charge_usd: `sums.cost_usd` in whole cents, so that all charges add up to the ledger's total in cents.
    """

    month: str
    client: str
    sums: UsageSums
    charge_usd: Decimal


@dataclass(frozen=True, slots=True)
class Chargeback:
    """Charges of some months.

    Args:
        total_usd: the ledger's own sum, to the cent.
    """

    period: Period
    charges: Sequence[Charge]
    total: UsageSums
    total_usd: Decimal


def parse_period(text: str, today: date) -> Period:
    """Days that `7d`, `2026-11`, `2026-11-20` or two of the latter two joined by `..` stand for.

    Args:
        today: in UTC; the last of `7d`'s seven days.
    Raises:
        ValueError: it is none of these, or ends before it begins.
    """
    days = _DAYS.fullmatch(text)
    if days and int(days[1]) <= MAX_DAYS:
        return Period(today - timedelta(days=int(days[1]) - 1), today)
    first, dots, last = text.partition("..")
    begin, end = _days_of(first), _days_of(last if dots else first)
    if begin is None or end is None or end.last < begin.first:
        raise ValueError(
            f"range {text!r}: expected days (7d), a month (2026-11), a day (2026-11-20), or two of these joined by"
            " .., the earlier one first"
        )
    return Period(begin.first, end.last)


def _days_of(text: str) -> Period | None:
    try:
        if match := _DAY.fullmatch(text):
            day = date(*map(int, match.groups()))
            return Period(day, day)
        if match := _MONTH.fullmatch(text):
            year, month = map(int, match.groups())
            return Period(date(year, month, 1), date(year, month, calendar.monthrange(year, month)[1]))
    except ValueError:
        return None
    return None


def parse_columns(text: str) -> tuple[Column, ...]:
    """Columns to sum by, from `client,model`.

    Raises:
        ValueError: one of them is none of the ledger's.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    known = {str(column): column for column in COLUMNS}
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(f"by {text!r}: expected some of {', '.join(COLUMNS)}, joined by commas")
    return tuple(dict.fromkeys(known[name] for name in names))


def parse_months(text: str) -> Period:
    """Whole months: `2026-11`, or `2026-01..2026-11`.

    Raises:
        ValueError: it is neither.
    """
    if not all(_MONTH.fullmatch(part) for part in text.split("..")):
        raise ValueError(f"chargeback {text!r}: expected a month (2026-11), or two joined by ..")
    return parse_period(text, date.min)


def read_usage(
    config: Config, by: Sequence[Column], period: Period, client: str | None = None
) -> UsageReport:
    """Sums of the ledger.

    Args:
        client: None for all that the database shows this role.
    """
    with open_store(config).connect() as connection:
        rows, total = sum_usage(connection, by, period, client)
    return UsageReport(period, rows, total)


def read_chargeback(config: Config, period: Period, client: str | None = None) -> Chargeback:
    """What each client used in each month, in whole cents that add up to the ledger's total."""
    with open_store(config).connect() as connection:
        rows, total = sum_usage(connection, ("month", "client"), period, client)
    cents = in_cents([row.sums.cost_usd for row in rows])
    charges = [
        Charge(row.group["month"], row.group["client"], row.sums, charge)
        for row, charge in zip(rows, cents, strict=True)
    ]
    return Chargeback(period, charges, total, rounded(total.cost_usd))


def rounded(usd: Decimal) -> Decimal:
    """To the cent, halves up."""
    with localcontext(EXACT):
        return (usd + CENT / 2).quantize(CENT, ROUND_FLOOR)


def in_cents(amounts: Sequence[Decimal]) -> list[Decimal]:
    """Amounts in whole cents whose sum is the rounded sum of `amounts`; none is a cent or more off.

    Rounded one by one, a hundred clients' halves of a cent would be half a dollar that nobody used: each is rounded
    down, and the cents that are missing go to the largest remainders (earlier ones first where these are equal).
    """
    with localcontext(EXACT):
        charges = [amount.quantize(CENT, ROUND_FLOOR) for amount in amounts]
        missing = int((rounded(sum(amounts, Decimal(0))) - sum(charges, Decimal(0))) / CENT)
        by_remainder = sorted(range(len(amounts)), key=lambda row: charges[row] - amounts[row])
        for row in by_remainder[:missing]:
            charges[row] += CENT
    return charges
