"""The part of JQL that the fake Jira understands; anything else it refuses, as Jira does, with a 400."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo


@dataclass(frozen=True, slots=True)
class Indexed:
    """What the search knows of an issue; it may lag behind the issue itself."""

    id: int
    key: str
    project: str
    created_ms: int
    updated_ms: int
    labels: tuple[str, ...]
    status: str


Condition = Callable[[Indexed], bool]


@dataclass(frozen=True, slots=True)
class Query:
    """A parsed query.

    Args:
        order: `created` or `updated`; ties by id.
        since_ms: a lower bound on `order` that every match meets, so that nobody walks over all issues.
        ids: where the query names them.
        projects: that it names, in upper case.
    """

    matches: Condition
    order: str
    descending: bool
    since_ms: int
    ids: frozenset[int] | None
    bounded: bool
    projects: frozenset[str]


class BadJql(Exception):
    """Told to the client."""


_TOKEN = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|(>=|!=|[=(),])|([\w.-]+))')
_FIELDS = {"project", "labels", "status", "id", "created", "updated"}


def parse(text: str, *, zone: ZoneInfo, epoch_dates: bool, fold: int = 1) -> Query:
    """What is meant by a query.

    Args:
        epoch_dates: False refuses numbers as dates, as some servers do.
        fold: which of a time that comes twice is taken: 0 for the first, 1 for the second, as Java's calendar does.
    Raises:
        BadJql: it is not understood.
    """
    return _Parser(text, zone, epoch_dates, fold).query()


class _Parser:
    def __init__(self, text: str, zone: ZoneInfo, epoch_dates: bool, fold: int) -> None:
        self._zone = zone
        self._fold = fold
        self._epoch_dates = epoch_dates
        self._tokens: list[tuple[str, str]] = []  # (kind, text)
        self._at = 0
        self._since: dict[str, int] = {}
        self._ids: frozenset[int] | None = None
        self._projects: set[str] = set()
        self._depth = 0
        at = 0
        text = text.rstrip()
        while at < len(text):
            found = _TOKEN.match(text, at)
            if not found:
                raise BadJql(f"Error in the JQL Query: unexpected character at {at}.")
            string, sign, word = found.groups()
            kind = "string" if string is not None else "sign" if sign else "word"
            self._tokens.append(
                (kind, re.sub(r"\\(.)", r"\1", string) if string is not None else sign or word)
            )
            at = found.end()

    def query(self) -> Query:
        bounded = not self._is("ORDER")
        matches = self._any() if bounded else lambda issue: True
        order, descending = "created", True
        if self._is("ORDER"):
            self._at += 1
            self._take("BY")
            order, descending = self._order()
        if self._at < len(self._tokens):
            raise BadJql(f"Error in the JQL Query: expected nothing after {self._tokens[self._at - 1][1]!r}.")
        since_ms = 0 if descending else self._since.get(order, 0)
        projects = frozenset(self._projects)
        return Query(matches, order, descending, since_ms, self._ids, bounded, projects)

    def _order(self) -> tuple[str, bool]:
        field, descending = self._word().lower(), False
        if field not in ("created", "updated"):
            raise BadJql(f"Not able to sort using field {field!r}.")
        if self._is("ASC") or self._is("DESC"):
            descending = self._word().upper() == "DESC"
        if self._is(","):
            self._at += 1
            if self._word() != "id" or self._word().upper() != ("DESC" if descending else "ASC"):
                raise BadJql("This server breaks ties by id, in the same direction, and in no other way.")
        return field, descending

    def _any(self) -> Condition:
        parts = [self._all()]
        while self._is("OR"):
            self._at += 1
            self._depth += 1
            parts.append(self._all())
            self._depth -= 1
        if len(parts) == 1:
            return parts[0]
        if self._depth == 0:
            self._since, self._ids = {}, None
        return lambda issue: any(part(issue) for part in parts)

    def _all(self) -> Condition:
        parts = [self._one()]
        while self._is("AND"):
            self._at += 1
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else lambda issue: all(part(issue) for part in parts)

    def _one(self) -> Condition:
        if self._is("("):
            self._at += 1
            self._depth += 1
            inner = self._any()
            self._depth -= 1
            self._take(")")
            return inner
        field = self._word().lower()
        if field not in _FIELDS:
            raise BadJql(f"Field '{field}' does not exist or you do not have permission to view it.")
        if field in ("created", "updated"):
            self._take(">=")
            return self._since_moment(field)
        sign = self._next()[1].lower()
        if sign == "in":
            values = self._list()
        elif sign in ("=", "!="):
            values = [self._next()[1]]
        else:
            raise BadJql(f"The operator '{sign}' is not supported by the '{field}' field.")
        return self._among(field, values, sign == "!=")

    def _among(self, field: str, values: list[str], unless: bool) -> Condition:
        if field == "id":
            if unless or not all(value.isdecimal() for value in values):
                raise BadJql("The value of field 'id' is invalid.")
            ids = frozenset(map(int, values))
            if self._depth == 0:
                self._ids = ids
            return lambda issue: issue.id in ids
        if field == "project":
            self._projects |= {value.upper() for value in values}
        known = frozenset(value.lower() for value in values)
        if field == "labels":
            return lambda issue: any(label.lower() in known for label in issue.labels) is not unless
        return lambda issue: (getattr(issue, field).lower() in known) is not unless

    def _since_moment(self, field: str) -> Condition:
        kind, value = self._next()
        since_ms = self._moment_ms(kind, value, field)
        if self._depth == 0:
            self._since[field] = max(since_ms, self._since.get(field, 0))
        if field == "created":
            return lambda issue: issue.created_ms >= since_ms
        return lambda issue: issue.updated_ms >= since_ms

    def _moment_ms(self, kind: str, value: str, field: str) -> int:
        if kind == "word" and value.isdecimal() and self._epoch_dates:
            return int(value)
        for form in ("%Y-%m-%d %H:%M", "%Y-%m-%d"):
            if kind == "string":
                try:
                    moment = datetime.strptime(value, form).replace(tzinfo=self._zone, fold=self._fold)
                    return int(moment.timestamp() * 1000)
                except ValueError:
                    continue
        raise BadJql(
            f"Date value '{value}' for field '{field}' is invalid. Valid formats include: 'yyyy/MM/dd HH:mm', "
            "'yyyy-MM-dd HH:mm', 'yyyy/MM/dd', 'yyyy-MM-dd', or a period format e.g. '-5d', '4w 2d'."
        )

    def _list(self) -> list[str]:
        self._take("(")
        values = [self._next()[1]]
        while self._is(","):
            self._at += 1
            values.append(self._next()[1])
        self._take(")")
        return values

    def _is(self, text: str) -> bool:
        if self._at >= len(self._tokens):
            return False
        kind, found = self._tokens[self._at]
        return kind != "string" and found.upper() == text

    def _take(self, text: str) -> None:
        if not self._is(text):
            raise BadJql(f"Error in the JQL Query: expecting '{text}' but got something else.")
        self._at += 1

    def _next(self) -> tuple[str, str]:
        if self._at >= len(self._tokens):
            raise BadJql("Error in the JQL Query: it ends too early.")
        self._at += 1
        return self._tokens[self._at - 1]

    def _word(self) -> str:
        kind, text = self._next()
        if kind != "word":
            raise BadJql(f"Error in the JQL Query: '{text}' is no field.")
        return text
