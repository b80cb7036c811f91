"""Lists of a repository in the order of change, whole even when the list moves under the reader.

A `next` link that counts pages points past a record as soon as one before it is changed (it goes to the end) or
deleted. So such links are followed only within one second's changes; otherwise the list is asked for anew from
where the last page ended, which nothing can move. Links with a place in the order (`after=`) are followed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from extractors.github_payloads import Item, as_issue, item_of, listed
from extractors.http import Answer, ApiSession
from extractors.paginators import LinkHeader, PageRequest, next_link
from schemas.documents import BEGINNING, Kind
from schemas.errors import BrokenAnswer

PER_PAGE = 100
GATHERED_PAGES = 5
GATHERED_PULLS = 100  # what one query takes
SECOND = timedelta(seconds=1)
NO_LIST = (404, 409, 410, 451)


@dataclass(frozen=True, slots=True)
class Stream:
    """One of the lists of a repository.

    Args:
        path: after `/repos/{owner}/{repo}`.
        backwards: it does not accept `since`, and is read from the latest change back.
    """

    name: str
    path: str
    params: Mapping[str, str | int]
    backwards: bool = False


_ORDER: Mapping[str, str | int] = {"sort": "updated", "direction": "asc", "per_page": PER_PAGE}
ISSUES = Stream("issues", "/issues", {"state": "all", **_ORDER})
COMMENTS = Stream("comments", "/issues/comments", _ORDER)
REVIEW_COMMENTS = Stream("review_comments", "/pulls/comments", _ORDER)
# Instead of ISSUES, where these are switched off: servers then answer 410 and hide the pull requests, too.
PULLS = Stream("pulls", "/pulls", {"state": "all", **_ORDER, "direction": "desc"}, backwards=True)


@dataclass(frozen=True, slots=True)
class ListPage:
    """A page of a list.

    Args:
        items: those that the page before did not have in the same state.
        unreadable: elements that are none of a list's records.
        resume: asking from here on gives all that follows; None for the list's beginning.
        is_last: nothing follows.
        is_only: the whole list is on this page.
    """

    items: tuple[Item, ...]
    unreadable: tuple[Any, ...]
    resume: datetime | None
    is_last: bool
    is_only: bool


def ask(
    session: ApiSession, repository: str, stream: Stream, since: datetime | None, etag: str | None = None
) -> Answer:
    """The first page of a list; a status of `NO_LIST` says that there is none, or not for us."""
    path = f"/repos/{repository}{stream.path}"
    return session.get(path, _params(stream, since), etag=etag, tolerated=NO_LIST)


def pages(
    session: ApiSession, place: str, stream: Stream, since: datetime | None, answer: Answer
) -> Iterator[ListPage]:
    """All pages of the list whose first page is `answer`.

    Args:
        place: whose list it is, for messages.
        since: as it was asked for.
    Raises:
        BrokenAnswer: a page is no list, or goes round in circles.
    """
    if stream.backwards:
        yield from _backwards(session, place, stream, since, answer)
        return
    address = answer.url.partition("?")[0]  # after a redirect
    before: set[bytes] = set()
    is_first = True
    while True:
        values = listed(answer.body)
        if values is None:
            raise BrokenAnswer(f"{place}: a list of {stream.name} came torn: try again later")
        items = [(value, item_of(value)) for value in values]
        known = [item for _, item in items if item is not None]
        fresh = tuple(item for item in known if item.payload not in before)
        link = next_link(answer.headers.get("link", ""))
        if not is_first and not fresh and link is not None:
            raise BrokenAnswer(f"{place}: a list of {stream.name} repeats itself: try again later")
        step = _after(known, since)
        done = link is None and (len(values) < PER_PAGE or step is None or not fresh)
        yield ListPage(
            fresh,
            tuple(value for value, item in items if item is None),
            step or since,
            done,
            done and is_first,
        )
        if done:
            return
        before, is_first = {item.payload for item in known}, False
        followed = _follow(session, answer.url, link, step is None)
        if followed is not None:
            answer, since = followed, step or since
        elif step is not None:
            since = step
            answer = session.get(address, _params(stream, since))
        else:
            raise BrokenAnswer(f"{place}: a list of {stream.name} cannot be read to its end")


def _backwards(
    session: ApiSession, place: str, stream: Stream, since: datetime | None, answer: Answer
) -> Iterator[ListPage]:
    """From the latest change back to `since`. What changes meanwhile goes to the front and pushes the rest along:
    some come twice, none is passed over but those that changed, which the next poll begins with."""
    following, is_first = LinkHeader(), True
    while True:
        values = listed(answer.body)
        if values is None:
            raise BrokenAnswer(f"{place}: a list of {stream.name} came torn: try again later")
        items = [(value, item_of(as_issue(value))) for value in values]
        known = [item for _, item in items if item is not None]
        new = tuple(item for item in known if since is None or item.updated_at >= since)
        request = following(PageRequest(answer.url), answer)
        done = request is None or len(new) < len(known)
        unreadable = tuple(value for value, item in items if item is None)
        yield ListPage(new, unreadable, since, done, done and is_first)
        if done or request is None:
            return
        answer, is_first = session.get(request.path), False


def gathered(pages: Iterable[ListPage]) -> Iterator[ListPage]:
    """Pages with few pull requests in them joined, so that a query about these is full; others as they come.

    An object that was listed twice because it changed is there once, as it was last.
    """
    before: list[ListPage] = []
    for page in pages:
        before.append(page)
        pulls = sum(item.kind is Kind.PULL for each in before for item in each.items)
        if page.is_last or not 0 < pulls < GATHERED_PULLS or len(before) == GATHERED_PAGES:
            yield _joined(before)
            before = []


def _joined(pages: list[ListPage]) -> ListPage:
    latest: dict[tuple[Kind, str], Item] = {}
    for item in (item for page in pages for item in page.items):
        latest.pop((item.kind, item.native_id), None)  # to its place in the order
        latest[item.kind, item.native_id] = item
    unreadable = tuple(value for page in pages for value in page.unreadable)
    last = pages[-1]
    return ListPage(tuple(latest.values()), unreadable, last.resume, last.is_last, last.is_only)


def _follow(session: ApiSession, url: str, link: str | None, stuck: bool) -> Answer | None:
    """The page behind `link` where it leads there safely; None when to ask anew by time."""
    if link is None:
        return None
    try:
        target = httpx.URL(url).join(link)
    except httpx.InvalidURL:
        return None
    if not stuck and "after" not in target.params:
        return None
    answer = session.get(str(target), tolerated=(422,))
    return None if answer.status == 422 else answer


def _after(items: list[Item], since: datetime | None) -> datetime | None:
    """From when to ask for what follows `items`, the last second again; None where that is no step forward."""
    moments = [item.updated_at for item in items]
    if not moments or moments != sorted(moments) or moments[0] - BEGINNING <= SECOND:
        return None
    step = moments[-1] - SECOND
    return step if moments[0] < step and (since is None or since < step) else None


def _params(stream: Stream, since: datetime | None) -> dict[str, str | int]:
    moment = (
        {} if since is None or stream.backwards else {"since": f"{since.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"}
    )
    return {**stream.params, **moment}
