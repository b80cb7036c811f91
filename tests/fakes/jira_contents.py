"""What a fake Jira holds, and what its search knows of that, perhaps later."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from schemas.payloads import parse_time
from tests.fakes.jira_jql import Indexed, Query


@dataclass(slots=True)
class Issue:
    """`fields` has all but the comments; `number` is that of the key."""

    id: int
    project: str
    number: int
    fields: dict[str, Any]
    comments: list[dict[str, Any]]
    created_ms: int
    updated_ms: int

    @property
    def key(self) -> str:
        return f"{self.project}-{self.number}"


@dataclass(frozen=True, slots=True)
class _Late:
    """A change that the search learns of at `due_at`; None where the issue was deleted."""

    due_at: datetime
    turn: int
    issue_id: int
    indexed: Indexed | None


class JiraContents:
    """Issues, each change at the time that the clock says.

    Args:
        now: the site's clock.
        search_lag_s: how long the search does not know of a change.
    """

    def __init__(self, now: Callable[[], datetime], search_lag_s: float) -> None:
        self.now = now
        self.search_lag_s = search_lag_s
        self.issues: dict[int, Issue] = {}
        self.hidden: set[int] = set()  # from the account that asks, as if they were not there
        self.lost: set[str] = set()  # projects that are hidden so with all that is in them
        self.service_desks: set[str] = set()  # projects
        self.keys: dict[int, str] = {}  # issue -> its key, also of those that were deleted: the last one
        self._keys: Counter[str] = Counter()  # project -> last number given
        self._next_id = 10_000
        self._next_comment = 100_000
        self.index: dict[int, Indexed] = {}
        self._late: list[_Late] = []
        self._turn = 0
        self._turns: dict[int, int] = {}  # issue -> the last of its changes that the search knows
        self._sorted: dict[str, list[tuple[int, int]]] = {}
        self.matched: dict[str, list[Indexed]] = {}

    def add_project(self, project: str) -> None:
        """One without issues; their first issue makes the others."""
        self._keys[project] += 0

    def create(self, project: str = "ABC", **fields: Any) -> int:
        """A new issue; `fields` as the API has them, names alone for `status`, `issuetype`, `parent` and so on."""
        self._next_id += 1
        self._keys[project] += 1
        moment = self.now()
        shown = {"summary": "", "status": "Open", "labels": [], **fields}
        issue = Issue(self._next_id, project, self._keys[project], {}, [], _ms(moment), _ms(moment))
        issue.fields = {name: _wrapped(name, value) for name, value in shown.items()}
        issue.fields |= {"project": {"key": project}, "created": written(moment)}
        self.issues[issue.id] = issue
        self._changed(issue)
        return issue.id

    def edit(self, issue_id: int, **fields: Any) -> None:
        issue = self.issues[issue_id]
        issue.fields |= {name: _wrapped(name, value) for name, value in fields.items()}
        self._changed(issue)

    def edit_silently(self, issue_id: int, **fields: Any) -> None:
        """As `edit`, and `updated` stays."""
        issue = self.issues[issue_id]
        issue.fields |= {name: _wrapped(name, value) for name, value in fields.items()}
        self._put(issue.id, self._indexed(issue))

    def move(self, issue_id: int, project: str) -> None:
        issue = self.issues[issue_id]
        self._keys[project] += 1
        issue.project, issue.number = project, self._keys[project]
        issue.fields["project"] = {"key": project}
        self._changed(issue)

    def delete(self, issue_id: int) -> None:
        del self.issues[issue_id]
        self._put(issue_id, None)

    def delete_project(self, project: str) -> None:
        for issue_id in [issue.id for issue in self.issues.values() if issue.project == project]:
            self.delete(issue_id)
        del self._keys[project]

    def sees_project(self, project: str) -> bool:
        return project in self._keys and project not in self.lost

    def sees_issue(self, issue: Issue | Indexed) -> bool:
        return issue.id not in self.hidden and issue.project not in self.lost

    def comment(self, issue_id: int, body: Any, author: str = "ines", **more: Any) -> int:
        """Args: more: `visibility`, `jsdPublic`."""
        self._next_comment += 1
        stamp = written(self.now())
        said = {"id": str(self._next_comment), "author": {"displayName": author, "accountId": f"id-{author}"}}
        said |= {"body": body, "created": stamp, "updated": stamp, **more}
        self.issues[issue_id].comments.append(said)
        self._changed(self.issues[issue_id])
        return self._next_comment

    def edit_comment(self, issue_id: int, comment_id: int, body: Any) -> None:
        issue = self.issues[issue_id]
        for comment in issue.comments:
            if comment["id"] == str(comment_id):
                comment |= {"body": body, "updated": written(self.now())}
        self._changed(issue)

    def delete_comment(self, issue_id: int, comment_id: int) -> None:
        issue = self.issues[issue_id]
        issue.comments = [comment for comment in issue.comments if comment["id"] != str(comment_id)]
        self._changed(issue)

    def load(self, payloads: Iterable[Mapping[str, Any]]) -> None:
        """Take issues as REST v2 or v3 gives them, their times as they are; the search knows them at once."""
        for payload in payloads:
            fields = dict(payload["fields"])
            comments = list((fields.pop("comment", None) or {}).get("comments", ()))
            project, _, number = payload["key"].rpartition("-")
            created_ms, updated_ms = (
                _ms(parse_time(fields.get(name)) or datetime.fromtimestamp(0, UTC))
                for name in ("created", "updated")
            )
            issue = Issue(int(payload["id"]), project, int(number), fields, comments, created_ms, updated_ms)
            self.issues[issue.id] = issue
            self.index[issue.id] = self._indexed(issue)
            self._next_id = max(self._next_id, issue.id)
            self._keys[project] = max(self._keys[project], issue.number)
            self._next_comment = max([self._next_comment, *(int(said["id"]) for said in comments)])
        self._forget()

    def redate(self, issue_id: int, updated: datetime) -> None:
        """As an import does: it says it changed at any time you like."""
        issue = self.issues[issue_id]
        issue.updated_ms, issue.fields["updated"] = _ms(updated), written(updated)
        self._put(issue.id, self._indexed(issue))

    def _changed(self, issue: Issue) -> None:
        moment = self.now()
        issue.updated_ms = _ms(moment)
        issue.fields["updated"] = written(moment)
        self._put(issue.id, self._indexed(issue))

    def _put(self, issue_id: int, indexed: Indexed | None) -> None:
        self._turn += 1
        due_at = self.now() + timedelta(seconds=self.search_lag_s)
        self._late.append(_Late(due_at, self._turn, issue_id, indexed))

    def _indexed(self, issue: Issue) -> Indexed:
        self.keys[issue.id] = issue.key
        return Indexed(
            issue.id,
            issue.key,
            issue.project,
            issue.created_ms,
            issue.updated_ms,
            tuple(issue.fields.get("labels") or ()),
            (issue.fields.get("status") or {}).get("name", ""),
        )

    def catch_up(self, ids: Iterable[int] = ()) -> None:
        """The search learns of what is due by now, and of all that happened to `ids`."""
        if not self._late:
            return
        moment, known = self.now(), set(ids)
        due = [late for late in self._late if late.due_at <= moment or late.issue_id in known]
        self._late = [late for late in self._late if late.due_at > moment and late.issue_id not in known]
        for late in due:
            if late.turn > self._turns.get(late.issue_id, 0):  # a later change may have come through before
                self._turns[late.issue_id] = late.turn
                self._apply(late.issue_id, late.indexed)

    def _forget(self) -> None:
        self._sorted.clear()
        self.matched.clear()

    def matches(self, query: Query, after: tuple[int, int] | None = None) -> Iterator[Indexed]:
        if query.ids is not None:
            found = [self.index[issue_id] for issue_id in query.ids if issue_id in self.index]
            found.sort(key=lambda issue: rank(issue, query.order), reverse=query.descending)
            rows: Iterable[tuple[int, int]] = [rank(issue, query.order) for issue in found]
        else:
            rows = self._rows(query, after)
        for row in rows:
            issue = self.index[row[1]]
            if query.ids is not None and after is not None and row <= after:
                continue
            if self.sees_issue(issue) and query.matches(issue):
                yield issue

    def _rows(self, query: Query, after: tuple[int, int] | None) -> Iterator[tuple[int, int]]:
        rows = self._sorted.get(query.order)
        if rows is None:
            rows = sorted(rank(issue, query.order) for issue in self.index.values())
            self._sorted[query.order] = rows
        if query.descending:
            return iter(rows[::-1] if after is None else rows[: bisect_left(rows, after)][::-1])
        start = bisect_left(rows, (query.since_ms, 0)) if after is None else bisect_right(rows, after)
        return (rows[place] for place in range(start, len(rows)))

    def _apply(self, issue_id: int, indexed: Indexed | None) -> None:
        if indexed is None:
            self.index.pop(issue_id, None)
        else:
            self.index[issue_id] = indexed
        self._forget()


def _wrapped(name: str, value: Any) -> Any:
    """A field as the API shows it."""
    if name in ("status", "issuetype", "priority", "resolution") and isinstance(value, str):
        return {"name": value}
    return {"key": value} if name == "parent" and isinstance(value, str) else value


def rank(issue: Indexed, order: str) -> tuple[int, int]:
    return (issue.created_ms if order == "created" else issue.updated_ms, issue.id)


def _ms(moment: datetime) -> int:
    return (moment - datetime.fromtimestamp(0, UTC)) // timedelta(milliseconds=1)


def at(ms: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=ms)


def written(moment: datetime) -> str:
    """As Jira writes it: milliseconds, and an offset without a colon."""
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}{moment:%z}"
