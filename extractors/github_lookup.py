"""Is it still there? One object looked at by itself, and what the answer proves.

Only GitHub's own 404 or 410 for the object, in a repository that is in sight and has the list that the object would
be in, says that it is gone; a token that lost its access gets 404 for everything, or for one kind of thing. An issue
that was transferred answers from another repository.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from extractors.base import Reference
from extractors.github_listing import ISSUES, PULLS, Stream
from extractors.github_payloads import Item, as_issue, is_pending, item_of
from extractors.http import Answer, ApiSession
from schemas.documents import Kind

_KEY = re.compile(
    r"(?P<repository>[\w-][\w.-]{0,99}/(?!\.{1,2}#)[\w.-]{1,100})#(?P<number>\d{1,18})(?: \([^)]*\))?",
    re.ASCII,
)
_PATHS = {
    Kind.ISSUE: "/issues/{number}",
    Kind.PULL: "/issues/{number}",
    Kind.COMMENT: "/issues/comments/{id}",
    Kind.REVIEW_COMMENT: "/pulls/comments/{id}",
    Kind.REVIEW: "/pulls/{number}/reviews/{id}",
}


_REFUSALS = (403, 404, 410, 451)
_LISTED_IN = {Kind.ISSUE: ISSUES, Kind.COMMENT: ISSUES}  # all others are parts of pull requests


@dataclass(frozen=True, slots=True)
class Gone:
    """The source says that it has no such thing any more."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unsaid:
    """Nothing can be said of it, and why."""

    reason: str


class Lookup:
    """Looks at objects of the configured repositories; what it learns of repositories it keeps."""

    def __init__(self, session: ApiSession, repositories: Sequence[str]) -> None:
        self._session = session
        self._configured = {name.lower() for name in repositories}
        self._homes: dict[str, str | None] = {}
        self._lists: dict[tuple[str, str], bool] = {}

    def look(self, reference: Reference) -> Item | Gone | Unsaid:
        """What the source says of one object now.

        Raises:
            PipelineError: the source cannot be asked, or refuses.
        """
        match, path = _KEY.fullmatch(reference.key), _PATHS.get(reference.kind)
        if match is None or path is None or not _asks_only_for_one(reference):
            return Unsaid("not to be asked for")
        repository = match["repository"]
        if not self._is_ours(repository):
            return Unsaid("of a repository that is not configured")
        place = path.format(number=match["number"], id=reference.native_id)
        answer = self._session.get(f"/repos/{repository}{place}", tolerated=_REFUSALS)
        value = answer.body
        if answer.status in (404, 410) and reference.kind is Kind.PULL:  # hidden with the issues
            answer = self._session.get(f"/repos/{repository}/pulls/{match['number']}", tolerated=_REFUSALS)
            value = as_issue(answer.body)
        if answer.status in (404, 410):
            return self._missing(repository, reference, answer)
        item = item_of(value) if answer.status == 200 else None
        if item is None or is_pending(value):
            return Unsaid("not to be seen")
        elsewhere = item.repository.lower() != repository.lower() and not self._is_ours(item.repository)
        if elsewhere:
            return Gone(f"transferred to {item.repository}")
        if (item.kind, item.native_id) != (reference.kind, reference.native_id):
            moved = item.repository.lower() != repository.lower()
            return Gone(
                f"transferred to {item.repository}" if moved else "replaced by another with its number"
            )
        return item

    def _missing(self, repository: str, reference: Reference, answer: Answer) -> Gone | Unsaid:
        if self._home(repository) is None:
            return Unsaid("of a repository that is out of sight")
        stream = _LISTED_IN.get(reference.kind, PULLS)
        if not self._has(repository, stream):
            return Unsaid(f"of a repository whose {stream.name} are switched off, or out of sight")
        return Gone("transferred out of sight" if answer.redirected else "deleted")

    def _is_ours(self, repository: str) -> bool:
        """Whether that is a configured repository, under this name, its present one or a former one."""
        if repository.lower() in self._configured:
            return True
        home = self._home(repository)
        homes = filter(None, map(self._home, sorted(self._configured)))
        return home is not None and home in homes

    def _home(self, repository: str) -> str | None:
        """Its name now, in lower case; None where it is not to be seen."""
        name = repository.lower()
        if name not in self._homes:
            answer = self._session.get(f"/repos/{name}", tolerated=_REFUSALS)
            self._homes[name] = _name_of(answer.body) if answer.status == 200 else None
        return self._homes[name]

    def _has(self, repository: str, stream: Stream) -> bool:
        """Whether it gives that list, so that what is missing is not merely hidden."""
        known = repository.lower(), stream.name
        if known not in self._lists:
            params = {**stream.params, "per_page": 1}
            answer = self._session.get(f"/repos/{repository}{stream.path}", params, tolerated=_REFUSALS)
            self._lists[known] = answer.status == 200
        return self._lists[known]


def _name_of(body: Any) -> str | None:
    name = body.get("full_name") if isinstance(body, dict) else None
    return name.lower() if isinstance(name, str) else None


def _asks_only_for_one(reference: Reference) -> bool:
    """An id becomes part of a path where it is asked for by id."""
    by_number = reference.kind in (Kind.ISSUE, Kind.PULL)
    return by_number or (reference.native_id.isascii() and reference.native_id.isdecimal())
