"""A fake Jira or GitHub full of issues, in a process of its own: what it costs is not the connector's.

    python -m benchmarks.connector_sites jira-cloud 100000

Prints a line of JSON as soon as it serves: its `url`, and what it `holds`. It ends when its input does.
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args
from urllib.parse import parse_qs

from tests.fakes.github import FakeGitHub
from tests.fakes.github_contents import user
from tests.fakes.jira import COMMENTS_PER_PAGE, INLINE_COMMENTS, FakeJira
from tests.fakes.serving import App, Message, Receive, Send, answer, serve

Product = Literal["jira-cloud", "jira-data-center", "github"]
PRODUCTS: tuple[Product, ...] = get_args(Product)

REPOSITORY = "acme/sluice"
SPACING = timedelta(minutes=7)  # more than the overlap of a poll
AGE_OF_NEWEST = timedelta(hours=1)
AGE_OF_CHANGES = timedelta(seconds=10)  # a poll finds them half its interval old, seldom at once
STRIDE = 7919  # from one changed issue to the next: a prime, so that all sorts are among them
PEOPLE = ("ines", "tom", "wanda", "yusuf", "renovate[bot]")
TEXT = (
    "the pump stops when its valve closes late and a sensor reports pressure above limit after restart "
    "so we log each cycle in queue order check firmware then retry with slower ramp until flow is stable"
)
WORDS = TEXT.split()


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a site holds, or what changed in it.

    Args:
        issues: pull requests among them.
        comment_pages: answers that give the comments which Jira Cloud does not send with their issues.
    """

    issues: int = 0
    pulls: int = 0
    comments: int = 0
    review_comments: int = 0
    reviews: int = 0
    comment_pages: int = 0


@dataclass(frozen=True, slots=True)
class Site:
    """An application, what it holds, and how so many of its issues are changed."""

    app: App
    holds: Holdings
    change: Callable[[int], Holdings]


class Clock:
    """Made-up time while things happen to a site, then the real one."""

    def __init__(self) -> None:
        self._made_up: datetime | None = None

    def __call__(self) -> datetime:
        return self._made_up or datetime.now(UTC)

    def pass_s(self, seconds: float) -> None:
        if self._made_up is not None:
            self._made_up += timedelta(seconds=seconds)

    @contextmanager
    def standing_at(self, moment: datetime) -> Iterator[None]:
        self._made_up = moment
        try:
            yield
        finally:
            self._made_up = None


def site_of(product: Product, issues: int) -> Site:
    """A site with so many issues, a tenth of them with comments."""
    if product == "github":
        return _github(issues)
    return _jira(issues, data_center=product == "jira-data-center")


def comments_of(number: int) -> int:
    """Comments on issue `number`: a hundredth of the issues has more than Jira Cloud sends with them."""
    if number % 10:
        return 0
    if number % 100:
        return 3
    return 35 if number % 1000 else 135


def is_pull(number: int) -> bool:
    return number % 5 == 1


def reviews_of(number: int) -> int:
    """Reviews, and as many comments in them, of pull request `number`: half of them have some, a few many."""
    if number % 10 != 1:
        return 0
    return 2 if number % 5000 != 1 else 35


def changed_numbers(issues: int, count: int) -> list[int]:
    """`count` different issues out of 1..`issues`, or all there are; spread so that no page has many of them."""
    stride = next(step for step in range(STRIDE, STRIDE + issues + 1) if math.gcd(step, issues) == 1)
    return [1 + (place * stride) % issues for place in range(1, min(count, issues) + 1)]


def _moments(issues: int) -> Iterator[tuple[int, datetime]]:
    """(number, when it was made), oldest first."""
    newest = datetime.now(UTC) - AGE_OF_NEWEST
    return ((number, newest - (issues - number) * SPACING) for number in range(1, issues + 1))


def _text(chance: random.Random, words: int) -> str:
    return " ".join(chance.choices(WORDS, k=words))


def _jira(issues: int, *, data_center: bool) -> Site:
    clock, chance = Clock(), random.Random(0)
    jira = FakeJira(clock, data_center=data_center)
    ids = [0]
    for number, moment in _moments(issues):
        with clock.standing_at(moment):
            summary, description = f"{number}: {_text(chance, 6)}", _text(chance, 90)
            reporter = {"displayName": chance.choice(PEOPLE)}
            ids.append(jira.create(summary=summary, description=description, reporter=reporter))
            for _ in range(comments_of(number)):
                clock.pass_s(1)
                jira.comment(ids[number], _text(chance, 40), author=chance.choice(PEOPLE))

    def change(count: int) -> Holdings:
        numbers = changed_numbers(issues, count)
        with clock.standing_at(datetime.now(UTC) - AGE_OF_CHANGES):
            for number in numbers:
                jira.edit(ids[number], summary=f"{number}, changed: {_text(chance, 6)}")
        return _held(numbers)

    return Site(jira.app, _held(range(1, issues + 1)), change)


def _github(issues: int) -> Site:
    clock, chance = Clock(), random.Random(0)
    github = FakeGitHub(clock, limit=10**9)
    repository = github.repository(REPOSITORY)
    for number, moment in _moments(issues):
        with clock.standing_at(moment):
            author = user(chance.choice(PEOPLE))
            title, body = f"{number}: {_text(chance, 6)}", _text(chance, 90)
            github.create(repository, pull=is_pull(number), title=title, body=body, user=author)
            for _ in range(comments_of(number)):
                clock.pass_s(1)
                github.comment(repository, number, _text(chance, 40), user=user(chance.choice(PEOPLE)))
            for _ in range(reviews_of(number)):
                clock.pass_s(1)
                github.review(repository, number, _text(chance, 20))
                github.review_comment(repository, number, _text(chance, 20))

    def change(count: int) -> Holdings:
        numbers = changed_numbers(issues, count)
        with clock.standing_at(datetime.now(UTC) - AGE_OF_CHANGES):
            for number in numbers:
                github.edit(repository, number, title=f"{number}, changed: {_text(chance, 6)}")
        changed = _with_pulls(numbers)
        return replace(changed, comments=0, review_comments=0)  # none of those changed

    return Site(github, _with_pulls(range(1, issues + 1)), change)


def _held(numbers: range | list[int]) -> Holdings:
    comments = [comments_of(number) for number in numbers]
    pages = sum(math.ceil(max(0, count - INLINE_COMMENTS) / COMMENTS_PER_PAGE) for count in comments)
    return Holdings(len(numbers), comments=sum(comments), comment_pages=pages)


def _with_pulls(numbers: range | list[int]) -> Holdings:
    reviews = sum(map(reviews_of, numbers))
    return replace(_held(numbers), pulls=sum(map(is_pull, numbers)), reviews=reviews, review_comments=reviews)


class Metered:
    """A site's application that counts; `/-/counts` and `/-/change?count=` are for whoever measures."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._requests = self._unchanged = self._bytes = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        told: dict[str, int]
        if scope["path"] == "/-/counts":
            told = {"requests": self._requests, "free": self._unchanged, "bytes": self._bytes}
        elif scope["path"] == "/-/change":
            told = asdict(self._site.change(int(parse_qs(scope["query_string"].decode())["count"][0])))
        else:
            await self._counted(scope, receive, send)
            return
        await answer(200, body=told)(self._site.app, scope, receive, send)

    async def _counted(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._requests += 1
                self._unchanged += message["status"] == 304
            self._bytes += len(message.get("body", b""))
            await send(message)

        await self._site.app(scope, receive, counting)


def main() -> int:
    product, issues = sys.argv[1:]
    found = next(each for each in PRODUCTS if each == product)
    site = site_of(found, int(issues))
    with serve(Metered(site)) as url:
        print(json.dumps({"url": url, "holds": asdict(site.holds)}), flush=True)
        sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main())
