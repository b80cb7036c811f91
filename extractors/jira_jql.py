"""Queries in JQL. Pure.

https://support.atlassian.com/jira-software-cloud/docs/jql-fields/
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from schemas.errors import BadConfig

Order = Literal["created", "updated"]
"""`created` never changes, so that order stands still while it is read."""

FARTHEST_WEST = timedelta(hours=12)

_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*+"|\'(?:[^\'\\]|\\.)*+\'')


def scope(projects: Sequence[str], jql: str | None, setting: str) -> str:
    """The condition that every issue of a source meets; "" where that is any issue.

    Args:
        setting: that `jql` came from, for the message.
    Raises:
        BadConfig: `jql` would not stand in parentheses, or has an order of its own.
    """
    parts = []
    if projects:
        parts.append(f"project in ({', '.join(map(quoted, projects))})")
    if jql is not None and jql.strip():
        _check(jql, setting)
        parts.append(f"({jql.strip()})")
    return " AND ".join(parts)


def since(within: str, order: Order, moment: str) -> str:
    """Issues whose `order` is not before `moment`, oldest first. Bounded, as Cloud asks, with any scope."""
    return f"{_and(within)}{order} >= {moment} ORDER BY {order} ASC, id ASC"


def newest(within: str) -> str:
    return f"{_and(within)}updated >= {BEGINNING} ORDER BY updated DESC"


def among(within: str, ids: Iterable[str]) -> str:
    """Those of some numeric ids that are within a scope."""
    return f"{_and(within)}id in ({', '.join(ids)}) ORDER BY created ASC"


def quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


BEGINNING = quoted("1970-01-01")
"""Understood by every server in every time zone."""


def in_minutes(ms: int, zone: ZoneInfo | None) -> str:
    """A moment for servers that refuse milliseconds: its minute in the time zone of the account that asks.

    Never later than `ms`.

    Args:
        zone: None where it is not known: half a day is added before.
    """
    moment = datetime.fromtimestamp(ms / 1000, UTC)
    local = (moment - FARTHEST_WEST) if zone is None else moment.astimezone(zone)
    if local.utcoffset() != local.replace(fold=not local.fold).utcoffset():
        local = (moment - timedelta(hours=1)).astimezone(zone)  # this hour comes twice; which is meant?
    return quoted(local.strftime("%Y-%m-%d %H:%M"))


def _and(within: str) -> str:
    return f"{within} AND " if within else ""


def _check(jql: str, setting: str) -> None:
    bare = _QUOTED.sub('""', jql)
    depth = 0
    for letter in bare:
        depth += (letter == "(") - (letter == ")")
        if depth < 0:
            break
    if depth or "'" in bare or '"' in bare.replace('""', ""):
        raise BadConfig(f"{setting}: its parentheses or quotes do not match: correct it")
    if re.search(r"\border\s+by\b", bare, re.IGNORECASE):
        raise BadConfig(f"{setting}: expected a filter without ORDER BY: leave that out")
