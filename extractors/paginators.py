"""How an API says what comes after a page: each learns from an answer and gives the next request.

One that would never come to an end is refused: the same place twice, page after page without anything in it,
or more than `MAX_PAGES`. A page that is shorter than asked for is not the last for that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from extractors.http import Answer, ApiSession
from schemas.errors import BrokenAnswer

MAX_PAGES = 100_000
MAX_EMPTY_PAGES = 10  # in a row: what may not be seen is left out after pages were cut


@dataclass(frozen=True, slots=True)
class PageRequest:
    """What to ask for next.

    Args:
        path: relative to the session's base, or a whole address of the same origin.
        params: of a GET.
        body: of a POST that only reads; None asks by GET.
    """

    path: str
    params: Mapping[str, str | int] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None

    def with_value(self, name: str, value: str | int) -> PageRequest:
        """The same request with a value of that name, where requests of its kind have them."""
        if self.body is None:
            return replace(self, params={**self.params, name: value})
        return replace(self, body={**self.body, name: value})


Paginator = Callable[[PageRequest, Answer], PageRequest | None]
"""(what was asked, the answer) -> what to ask next, None at the end. One for each listing: it remembers.

Raises:
    BrokenAnswer: the answer is no page, or the listing would never end.
"""


def each_page(session: ApiSession, first: PageRequest, paginator: Paginator) -> Iterator[Answer]:
    """Ask for `first` and all that follows it.

    Raises:
        PipelineError: as `ApiSession.get`, and as the paginator.
    """
    request: PageRequest | None = first
    while request is not None:
        if request.body is None:
            answer = session.get(request.path, request.params)
        else:
            answer = session.post(request.path, request.body)
        yield answer
        request = paginator(request, answer)


class LinkHeader:
    """Follows `Link: <...>; rel="next"` (RFC 8288), as GitHub asks for: its pages are not numbers to count up.

    https://docs.github.com/en/rest/using-the-rest-api/using-pagination-in-the-rest-api
    """

    def __init__(self) -> None:
        self._progress = _Progress()

    def __call__(self, asked: PageRequest, answer: Answer) -> PageRequest | None:
        target = next_link(answer.headers.get("link", ""))
        if target is None:
            return None
        try:
            url = str(httpx.URL(answer.url).join(target))
        except httpx.InvalidURL:
            raise _refused(answer, "names no address as its next page") from None
        self._progress.note(answer, url, empty=answer.body == [])
        return PageRequest(url)


class NextPageToken:
    """Hands back the `nextPageToken` of Jira Cloud's `/search/jql`, until there is none.

    https://developer.atlassian.com/cloud/jira/platform/rest/v3/api-group-issue-search/

    Args:
        items: name of the list in an answer.
    """

    def __init__(self, items: str = "issues") -> None:
        self._items = items
        self._progress = _Progress()

    def __call__(self, asked: PageRequest, answer: Answer) -> PageRequest | None:
        found = _items(answer, self._items)
        token = answer.body.get("nextPageToken")
        if not token or answer.body.get("isLast") is True:
            return None
        if not isinstance(token, str):
            raise _refused(answer, "gives a nextPageToken that is no text")
        self._progress.note(answer, token, empty=not found)
        return asked.with_value("nextPageToken", token)


class StartAt:
    """Counts `startAt` up to `total`, by what came, since a server may give fewer than asked for (Jira).

    https://developer.atlassian.com/server/jira/platform/rest/v10000/intro/#pagination

    Args:
        items: name of the list in an answer, such as `issues`, `comments` or `values`.
    """

    def __init__(self, items: str = "issues") -> None:
        self._items = items
        self._progress = _Progress()

    def __call__(self, asked: PageRequest, answer: Answer) -> PageRequest | None:
        found = _items(answer, self._items)
        sent = asked.params if asked.body is None else asked.body
        start_at = _count(answer, sent, "startAt") or 0
        if _count(answer, answer.body, "startAt") not in (None, start_at):
            raise _refused(answer, "starts elsewhere than asked")
        total = _count(answer, answer.body, "total")
        after = start_at + (len(found) or _count(answer, answer.body, "maxResults") or 0)
        at_end = not found if total is None else after >= total
        if at_end or answer.body.get("isLast") is True:
            return None
        if after == start_at:
            raise _refused(answer, "gave nothing, and has more")
        self._progress.note(answer, str(after), empty=not found)
        return asked.with_value("startAt", after)


class _Progress:
    """Sees to it that a listing comes to an end."""

    def __init__(self) -> None:
        self._seen: set[int] = set()  # hashes: a token may be long
        self._empty = 0

    def note(self, answer: Answer, place: str, *, empty: bool) -> None:
        self._empty = self._empty + 1 if empty else 0
        if hash(place) in self._seen:
            raise _refused(answer, "names a next page that was there before")
        if self._empty >= MAX_EMPTY_PAGES:
            raise _refused(answer, f"gave {self._empty} empty pages in a row and yet another to come")
        if len(self._seen) >= MAX_PAGES:
            raise _refused(answer, f"gave {MAX_PAGES} pages and yet another to come")
        self._seen.add(hash(place))


_LINK = re.compile(r"<([^<>]*)>((?:[^\",<]|\"(?:[^\"\\]|\\.)*+\")*+)")
_PARAMETER = re.compile(r";\s*+([^\s=;,\"]++)\s*+=\s*+(?:\"((?:[^\"\\]|\\.)*+)\"|([^\s;,\"]++))")


def next_link(header: str) -> str | None:
    """The target of relation `next` in a Link header (RFC 8288), as it stands there: it may be relative."""
    for target, parameters in _LINK.findall(header):
        for name, quoted, bare in _PARAMETER.findall(parameters):
            if name.lower() == "rel":
                if "next" in (quoted or bare).lower().split():
                    return str(target)
                break  # only the first counts
    return None


def _items(answer: Answer, name: str) -> list[Any]:
    found = answer.body.get(name) if isinstance(answer.body, dict) else None
    if not isinstance(found, list):
        raise _refused(answer, f"has no list of {name}")
    return found


def _count(answer: Answer, values: Mapping[str, Any], name: str) -> int | None:
    value = values.get(name)
    if value is not None and (not isinstance(value, int) or value < 0):
        raise _refused(answer, f"has a {name} that is no count")
    return value


def _refused(answer: Answer, why: str) -> BrokenAnswer:
    url = httpx.URL(answer.url)
    return BrokenAnswer(f"the answer of {url.host} to {url.path} {why}")
