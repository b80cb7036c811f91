"""What stands in a query means what was meant, whatever time zone, keys and filters are made of."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from hypothesis import example, given
from hypothesis import strategies as st

from extractors import jira_jql
from tests.fakes.jira_jql import Indexed, parse

ZONES = [
    "UTC",
    "America/St_Johns",
    "Pacific/Kiritimati",
    "Pacific/Niue",
    "Europe/Oslo",
    "Australia/Lord_Howe",
]


def _ms(moment: datetime) -> int:
    return round(moment.replace(tzinfo=UTC).timestamp() * 1000)


moments = st.datetimes(datetime(2000, 1, 1), datetime(2040, 1, 1)).map(_ms)


@given(ms=moments, zone=st.sampled_from(ZONES), fold=st.sampled_from([0, 1]))
@example(ms=_ms(datetime(2026, 10, 25, 0, 30)), zone="Europe/Oslo", fold=1)  # 02:30, to be again in an hour
@example(ms=_ms(datetime(2026, 10, 25, 1, 30)), zone="Europe/Oslo", fold=1)
@example(ms=_ms(datetime(2026, 10, 25, 1, 30)), zone="Europe/Oslo", fold=0)
@example(ms=_ms(datetime(2026, 3, 29, 1, 30)), zone="Europe/Oslo", fold=1)  # 03:30, an hour after 01:30
@example(ms=_ms(datetime(2026, 4, 4, 14, 45)), zone="Australia/Lord_Howe", fold=1)  # half an hour comes twice
def test_a_bound_in_minutes_is_never_later_than_meant(ms: int, zone: str, fold: int) -> None:
    text = jira_jql.since("", "updated", jira_jql.in_minutes(ms, ZoneInfo(zone)))
    since_ms = parse(text, zone=ZoneInfo(zone), epoch_dates=False, fold=fold).since_ms
    assert ms - 2 * 3600_000 - 60_000 < since_ms <= ms


@given(ms=moments, zone=st.sampled_from(ZONES))
def test_a_bound_for_an_unknown_zone_is_never_later_than_meant(ms: int, zone: str) -> None:
    text = jira_jql.since("", "updated", jira_jql.in_minutes(ms, None))
    assert parse(text, zone=ZoneInfo(zone), epoch_dates=False).since_ms <= ms


@given(
    ms=st.integers(0, 2**42),
    projects=st.lists(st.from_regex("[A-Z][A-Z0-9_]{1,9}", fullmatch=True), max_size=3),
)
def test_milliseconds_stand_as_they_are(ms: int, projects: list[str]) -> None:
    within = jira_jql.scope(projects, "labels = x OR labels = y", "jql")
    query = parse(jira_jql.since(within, "created", str(ms)), zone=ZoneInfo("UTC"), epoch_dates=True)
    assert (query.since_ms, query.order, query.descending) == (ms, "created", False)


def test_a_filter_stays_in_its_parentheses() -> None:
    within = jira_jql.scope(["ABC", "OR"], ' labels = "a)b" OR status = Open ', "jql")
    assert within == 'project in ("ABC", "OR") AND (labels = "a)b" OR status = Open)'
    assert jira_jql.scope([], "  ", "jql") == ""


@given(value=st.text(st.characters(categories=("L", "N", "P", "S", "Zs")), min_size=1))
def test_a_quoted_value_is_that_value(value: str) -> None:
    query = parse(f"labels = {jira_jql.quoted(value)}", zone=ZoneInfo("UTC"), epoch_dates=True)
    assert query.matches(Indexed(1, "ABC-1", "ABC", 0, 0, (value,), "Open"))
    assert not query.matches(Indexed(1, "ABC-1", "ABC", 0, 0, (value + "x",), "Open"))
