"""What one client has used and reserved, as one small value. Every change of it is a pure function.

A reservation counts at its estimate from the moment it is made: in the minute's requests, the hour's tokens, the
day's and the month's dollars. Settling puts what it came to in the estimate's place. So a worker that dies in between
leaves its estimate counted, and what is counted is never less than what was spent.

Minutes and hours slide, as providers' do: counts lie in thirty buckets, and a bucket counts until the whole of it is
older than the window, so that no sixty seconds (or minutes) ever hold more than the limit. Days and months are those
of the calendar in UTC, as on an invoice; what is under way at midnight counts on both sides of it.

Dollars are integers of 10^-9 here, costs rounded up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from uuid import UUID

from pydantic import TypeAdapter

from schemas.allowances import EVERY
from transforms.allowance.base import Reservation

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400
BUCKETS = 30
"""Of a window: a limit is used to at least 30/31."""

GRACE_S = 30.0
"""After the longest time of its request, until a reservation lapses: for the ledger's row to be written."""

Buckets = dict[int, int]
"""Number of a bucket -> what is counted in it."""


@dataclass(frozen=True, slots=True)
class Used:
    """What is counted at one provider.

    Args:
        requests: of the last minute, in buckets of two seconds.
        tokens: of the last hour, in buckets of two minutes.
        day_nano: 10^-9 dollars of the book's day.
        month_nano: of its month.
    """

    requests: Buckets = field(default_factory=dict)
    tokens: Buckets = field(default_factory=dict)
    day_nano: int = 0
    month_nano: int = 0


@dataclass(frozen=True, slots=True)
class Held:
    """A reservation that is neither settled nor released.

    Args:
        reserved_s: when, in seconds since 1970.
        until_s: when its request is over for certain; it has lapsed then.
        day: that it is counted in.
        month: that it is counted in.
    """

    provider: str
    reserved_s: float
    until_s: float
    tokens: int
    nano: int
    day: int
    month: int


@dataclass(frozen=True, slots=True)
class Book:
    """All of a client.

    Args:
        day: since 1970-01-01.
        month: since the year 0.
        used: by provider.
        held: by reservation.
    """

    day: int
    month: int
    used: dict[str, Used] = field(default_factory=dict)
    held: dict[UUID, Held] = field(default_factory=dict)


_books = TypeAdapter(Book)


def dump(book: Book) -> bytes:
    """`book` as JSON."""
    return _books.dump_json(book)


def load(text: bytes | str) -> Book:
    """The book that `dump` wrote.

    Raises:
        ValueError: it did not write this.
    """
    return _books.validate_json(text)


def nano_of(usd: Decimal) -> int:
    """Dollars in units of 10^-9, rounded up."""
    return int((usd * 10**9).to_integral_value(ROUND_CEILING))


def usd_of(nano: int) -> Decimal:
    """Units of 10^-9 in dollars."""
    return Decimal(nano) / 10**9


def day_of(now_s: float) -> int:
    """Days since 1970-01-01, UTC."""
    return int(now_s // DAY_S)


def month_of(now_s: float) -> int:
    """Months since the year 0, UTC."""
    now = datetime.fromtimestamp(now_s, UTC)
    return now.year * 12 + now.month - 1


def first_day(month: int) -> datetime:
    """When a month begins."""
    return datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC)


def minute_bucket(at_s: float) -> int:
    """Bucket of the minute's window that a moment lies in."""
    return int(at_s * BUCKETS // MINUTE_S)


def hour_bucket(at_s: float) -> int:
    """Bucket of the hour's window that a moment lies in."""
    return int(at_s * BUCKETS // HOUR_S)


def turned(book: Book, now_s: float) -> Book:
    """`book` as it stands now: old buckets left out, a new day or month begun with what is under way.

    It is never turned back: a clock that lags behind another's finds the later day.
    """
    day, month = max(book.day, day_of(now_s)), max(book.month, month_of(now_s))
    held, carried = book.held, Counter[str]()
    if (day, month) != (book.day, book.month):
        under_way = {key: one for key, one in held.items() if one.until_s > now_s}
        held = held | {key: replace(one, day=day, month=month) for key, one in under_way.items()}
        for one in under_way.values():
            carried[one.provider] += one.nano
    oldest_request, oldest_token = minute_bucket(now_s - MINUTE_S), hour_bucket(now_s - HOUR_S)
    used = {
        provider: Used(
            {bucket: count for bucket, count in one.requests.items() if bucket >= oldest_request},
            {bucket: count for bucket, count in one.tokens.items() if bucket >= oldest_token},
            one.day_nano if day == book.day else carried[provider],
            one.month_nano if month == book.month else carried[provider],
        )
        for provider, one in book.used.items()
    }
    return Book(day, month, used, held)


def reserved(book: Book, reservation: Reservation, now_s: float) -> Book:
    """`book`, turned to now, with `reservation` counted; once, if it is there already."""
    if reservation.reservation_id in book.held:
        return book
    estimate = reservation.estimate
    held = Held(
        provider=estimate.provider,
        reserved_s=now_s,
        until_s=now_s + estimate.duration_s + GRACE_S,
        tokens=estimate.tokens,
        nano=nano_of(estimate.usd),
        day=book.day,
        month=book.month,
    )
    before = book.used.get(estimate.provider, Used())
    after = Used(
        _plus(before.requests, minute_bucket(now_s), estimate.requests),
        _plus(before.tokens, hour_bucket(now_s), estimate.tokens),
        before.day_nano + held.nano,
        before.month_nano + held.nano,
    )
    return replace(
        book,
        used=book.used | {estimate.provider: after},
        held=book.held | {reservation.reservation_id: held},
    )


def settled(book: Book, reservation_id: UUID, tokens: int, nano: int) -> Book:
    """`book` with what a reservation came to in its estimate's place; unchanged if it is not held any more.

    Requests stay: providers count those they refuse, too.
    """
    held = book.held.get(reservation_id)
    if held is None:
        return book
    before = book.used[held.provider]
    more_nano = nano - held.nano
    bucket = hour_bucket(held.reserved_s)
    after = replace(
        before,
        tokens=_plus(before.tokens, bucket, tokens - held.tokens)
        if bucket in before.tokens
        else before.tokens,
        day_nano=before.day_nano + (more_nano if held.day == book.day else 0),
        month_nano=before.month_nano + (more_nano if held.month == book.month else 0),
    )
    return replace(book, used=book.used | {held.provider: after}, held=_without(book.held, [reservation_id]))


def lapsed(book: Book, now_s: float) -> tuple[UUID, ...]:
    """Reservations whose worker said nothing of them in time."""
    return tuple(key for key, one in book.held.items() if one.until_s <= now_s)


def written_off(book: Book, reservation_ids: Iterable[UUID]) -> Book:
    """`book` with reservations no longer held: they count at their estimates for good."""
    return replace(book, held=_without(book.held, reservation_ids))


def month_nano(book: Book, provider: str) -> int:
    """What is counted in the month at a provider, or at all (`*`)."""
    return sum(one.month_nano for one in _at(book, provider))


def day_nano(book: Book, provider: str) -> int:
    """What is counted in the day at a provider, or at all (`*`)."""
    return sum(one.day_nano for one in _at(book, provider))


def under_way_nano(book: Book, provider: str, now_s: float) -> int:
    """What of that is reserved for requests under way, which may come to less."""
    return sum(
        one.nano
        for one in book.held.values()
        if one.until_s > now_s and one.month == book.month and provider in (one.provider, EVERY)
    )


def requests_of(book: Book, provider: str) -> Buckets:
    """Requests of the last minute at a provider, or at all (`*`)."""
    return sum((Counter(one.requests) for one in _at(book, provider)), Counter())


def tokens_of(book: Book, provider: str) -> Buckets:
    """Tokens of the last hour at a provider, or at all (`*`)."""
    return sum((Counter(one.tokens) for one in _at(book, provider)), Counter())


def _at(book: Book, provider: str) -> list[Used]:
    return [one for name, one in book.used.items() if provider in (name, EVERY)]


def _plus(buckets: Mapping[int, int], bucket: int, count: int) -> Buckets:
    return {**buckets, bucket: buckets.get(bucket, 0) + count}


def _without(held: Mapping[UUID, Held], reservation_ids: Iterable[UUID]) -> dict[UUID, Held]:
    gone = set(reservation_ids)
    return {key: one for key, one in held.items() if key not in gone}
