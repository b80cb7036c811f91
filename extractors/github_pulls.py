"""What a list of issues does not say of a pull request: its branches and reviews.

A hundred pull requests cost one GraphQL query, or two REST requests each where GraphQL cannot be had or gives
errors. Both routes give the same records.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from extractors.github_api import graphql_url
from extractors.github_payloads import Item, Refs, listed, pull_url, refs_of, review_of_graphql, with_refs
from extractors.http import ApiSession
from extractors.paginators import LinkHeader, PageRequest, each_page
from schemas.errors import BrokenAnswer

PULLS_PER_QUERY = 100
SMALLEST_QUERY = 25  # pull requests; a query that takes longer than 10 s is halved down to this
REVIEWS_PER_PULL = 30  # in a query; the rare pull request with more is asked by REST

_TOO_SLOW = (502, 504)
_UNAVAILABLE = (400, 403, 404, 405, 410)
_REVIEWS = """ reviews(first: %d) { pageInfo { hasNextPage }
 nodes { fullDatabaseId body state submittedAt url author { __typename login } } }"""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pull:
    """A pull request with what was asked about it.

    Args:
        item: in the shape of a pull request; still in that of an issue where its branches are not to be had.
        reviews: REST objects.
    """

    item: Item
    reviews: Sequence[Any]


@dataclass(frozen=True, slots=True)
class _Details:
    refs: Refs | None
    reviews: Sequence[Any]


class PullReader:
    """Asks for what lists leave out.

    Args:
        graphql: False asks by REST alone; GraphQL answers nobody who has no token.
    """

    def __init__(self, session: ApiSession, api_url: str, source: str, *, graphql: bool) -> None:
        self._session = session
        self._api_url = api_url
        self._source = source
        self._graphql = graphql

    def read(self, pulls: Sequence[Item], *, reviews: bool) -> Iterator[Pull]:
        """Each of `pulls`, in the order given.

        Raises:
            PipelineError: the source cannot be asked, or refuses.
        """
        for repository, group in groupby(pulls, key=lambda pull: pull.repository):
            members = list(group)
            for start in range(0, len(members), PULLS_PER_QUERY):
                batch = members[start : start + PULLS_PER_QUERY]
                known = self._queried(repository, batch, reviews)
                for pull in batch:
                    details = known.get(pull.number) or self._by_rest(pull, reviews)
                    item = with_refs(pull, details.refs) if details.refs else pull
                    yield Pull(item, details.reviews)

    def _queried(self, repository: str, pulls: Sequence[Item], reviews: bool) -> dict[int, _Details]:
        """Number -> details, of those that GraphQL gave whole."""
        if not self._graphql:
            return {}
        owner, _, name = repository.partition("/")
        body = {
            "query": query([pull.number for pull in pulls], reviews=reviews),
            "variables": {"owner": owner, "name": name},
        }
        answer = self._session.post(graphql_url(self._api_url), body, tolerated=(*_TOO_SLOW, *_UNAVAILABLE))
        if answer.status in _TOO_SLOW and len(pulls) > SMALLEST_QUERY:
            middle = len(pulls) // 2
            return self._queried(repository, pulls[:middle], reviews) | self._queried(
                repository, pulls[middle:], reviews
            )
        if answer.status in _UNAVAILABLE or _is_not_understood(answer.body):
            self._graphql = False
            _log.warning(
                'source "%s": GraphQL cannot be used (HTTP %d), reviews are asked for one by one',
                self._source,
                answer.status,
            )
        return _details(answer.body, pulls)

    def _by_rest(self, pull: Item, reviews: bool) -> _Details:
        path = f"/repos/{pull.repository}/pulls/{pull.number}"
        refs = refs_of(self._session.get(path, tolerated=(404, 410)).body)
        wanted = reviews and refs is not None
        return _Details(refs, list(self._reviews_by_rest(path)) if wanted else ())

    def _reviews_by_rest(self, path: str) -> Iterator[Any]:
        request = PageRequest(f"{path}/reviews", {"per_page": 100})
        for answer in each_page(self._session, request, LinkHeader()):
            values = listed(answer.body)
            if values is None:
                raise BrokenAnswer(f'source "{self._source}": a list of reviews came torn: try again later')
            yield from values


def query(numbers: Sequence[int], *, reviews: bool) -> str:
    """The GraphQL query for pull requests by number; its answer has them under `p<number>`.

    https://docs.github.com/en/graphql/reference/objects#pullrequest. By the rule for costs, connections / 100:
    one point of 5,000 an hour for the first hundred pull requests.
    """
    wanted = _REVIEWS % REVIEWS_PER_PULL if reviews else ""
    members = " ".join(f"p{number}: pullRequest(number: {number}) {{ ...details }}" for number in numbers)
    return (
        f"fragment details on PullRequest {{ baseRefName headRefName{wanted} }} "
        f"query($owner: String!, $name: String!) "
        f"{{ repository(owner: $owner, name: $name) {{ {members} }} }}"
    )


def _details(body: Any, pulls: Sequence[Item]) -> dict[int, _Details]:
    """What an answer with status 200 gives whole; errors and missing parts may stand beside data in it."""
    data, errors = _mapping(_mapping(body).get("data")), _list(_mapping(body).get("errors"))
    paths = [_list(_mapping(error).get("path")) for error in errors]
    if any(len(path) < 2 for path in paths):
        return {}
    broken, repository = {path[1] for path in paths}, _mapping(data.get("repository"))
    found: dict[int, _Details] = {}
    for pull in pulls:
        alias = f"p{pull.number}"
        if alias not in broken:
            details = _detail(_mapping(repository.get(alias)), pull)
            if details is not None:
                found[pull.number] = details
    return found


def _detail(value: Mapping[str, Any], pull: Item) -> _Details | None:
    base, head = value.get("baseRefName"), value.get("headRefName")
    if not isinstance(base, str) or not isinstance(head, str):
        return None
    reviews: list[Any] = []
    if "reviews" in value:
        connection = _mapping(value["reviews"])
        nodes = connection.get("nodes")
        if (
            not isinstance(nodes, list)
            or _mapping(connection.get("pageInfo")).get("hasNextPage") is not False
        ):
            return None
        address = pull_url(pull)
        reviews = [review_of_graphql(_mapping(node), address) for node in nodes]
    return _Details(Refs(base, head), reviews) if None not in reviews else None


def _is_not_understood(body: Any) -> bool:
    """The server's GraphQL is older than the query, or the token may not use it: no use in asking again."""
    for error in map(_mapping, _list(_mapping(body).get("errors"))):
        code = _mapping(error.get("extensions")).get("code")
        if code == "undefinedField" or error.get("type") in ("FORBIDDEN", "INSUFFICIENT_SCOPES"):
            return True
    return False


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
