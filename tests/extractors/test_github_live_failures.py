"""A repository that cannot be read is said, left alone for a while, and keeps no other from being read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from extractors.base import Page
from extractors.github_live import GitHubRepositories
from schemas.documents import Kind
from schemas.errors import (
    AccessRefused,
    NotAllowed,
    PartUnread,
    PipelineError,
    SourceUnavailable,
    WrongAddress,
)
from tests.extractors.github_world import World, populated
from tests.fakes.github import TOKEN
from tests.fakes.serving import Fault, answer, torn, web_page

BOTH = ("acme/weir", "acme/sluice")
WEIR = "/repos/acme/weir"
NO_SCOPE = answer(403, {}, {"message": "Resource not accessible by personal access token"})


@pytest.fixture
def two(world: World) -> World:
    """A repository beside the other; both have an issue, only one has anything else."""
    populated(world)
    world.github.create(world.github.repository("acme/weir"))
    return world


@contextmanager
def source_of_both(world: World, **more: object) -> Iterator[GitHubRepositories]:
    with world.source(repositories=BOTH, **more) as source:
        yield source


def given(source: GitHubRepositories, world: World) -> tuple[set[str], PipelineError | None]:
    """What a poll gave, as keys without what is in brackets, and what it ended with."""
    pages: list[Page] = []
    try:
        for page in source.pages(world.cursor):
            world.cursor = page.cursor
            pages.append(page)
    except PipelineError as error:
        failure: PipelineError | None = error
    else:
        failure = None
    assert not any(page.tombstones for page in pages)
    return {record.locator.split(" ")[0] for page in pages for record in page.records}, failure


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (NO_SCOPE, ["HTTP 403", "read access to issues, pull requests and metadata", "check token"]),
        (answer(403, {}, {"message": "Repository access blocked"}), ["GitHub itself has blocked it"]),
        (answer(451, {}, {"message": "Repository unavailable due to DMCA takedown."}), ["`repositories`"]),
        (answer(404, {}, {"message": "Not Found"}), ["is not there", "`repositories` and `token`"]),
        (answer(422, {}, {"message": "Validation Failed"}), ["HTTP 422"]),
        (answer(500, {}, {"message": "Server Error"}), ["HTTP 500"]),
        (answer(200, {}, {"message": "no list"}), ["came torn"]),
        (torn(), ["broke the connection"]),
        (web_page(), ["web page"]),
    ],
)
@pytest.mark.parametrize("when", ["at first", "later"])
def test_the_other_repositories_are_read_and_the_one_is_named_in_one_line(
    two: World, fault: Fault, words: list[str], when: str
) -> None:
    with source_of_both(two) as source:
        if when == "later":
            assert given(source, two)[1] is None
            two.clock.moment += timedelta(hours=25)
        two.faults.next(fault, prefix=WEIR, times=100)
        read, failure = given(source, two)
    assert read == {"acme/sluice#1", "acme/sluice#2"}
    assert isinstance(failure, PartUnread)
    line = str(failure)
    assert line.startswith('source "gh"')
    assert "\n" not in line
    assert all(word in line for word in ["acme/weir", *words]), line
    assert TOKEN not in line


@pytest.mark.parametrize("path", ["/graphql", f"{WEIR}/pulls/2", f"{WEIR}/issues/comments"])
def test_a_refusal_in_the_middle_of_a_repository_is_its_own(two: World, path: str) -> None:
    weir = two.github.repositories[two.github.names["acme/weir"]]
    two.github.create(weir, pull=True)
    two.github.graphql = path == "/graphql"
    two.faults.next(NO_SCOPE, prefix=path, times=100 if path != "/graphql" else 1)
    with source_of_both(two) as source:
        read, failure = given(source, two)
    assert read >= {"acme/sluice#1", "acme/sluice#2"}
    if path == "/graphql":  # asked by REST
        assert failure is None
        assert "acme/weir#2" in read
    else:
        assert "acme/weir" in str(failure)


def test_a_check_tries_every_repository_and_reads_none(two: World) -> None:
    with source_of_both(two) as source:
        assert source.check() == "2 repositories, readable"
        assert sum(two.asked().values()) == 6
        two.faults.next(NO_SCOPE, prefix="/repos/acme/sluice/pulls")
        with pytest.raises(PartUnread, match=r"issues, pull requests and metadata.*acme/sluice"):
            source.check()
        two.faults.next(answer(404, {}, {"message": "Not Found"}), times=100)
        with pytest.raises(WrongAddress, match="acme/weir is not there"):
            source.check()


def test_credentials_that_nobody_accepts_stop_the_source_at_the_first_request(
    two: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("T", "ghp_wrong")
    with source_of_both(two) as source:
        read, failure = given(source, two)
    assert (read, type(failure)) == (set(), AccessRefused)
    assert len(two.faults.requests) == 1


def test_where_all_repositories_are_refused_the_source_is(two: World) -> None:
    two.faults.next(NO_SCOPE, times=100)
    with source_of_both(two) as source:
        read, failure = given(source, two)
    assert (read, type(failure)) == (set(), NotAllowed)


def test_a_server_out_of_order_is_not_asked_for_each_repository(two: World) -> None:
    two.faults.next(answer(500, {}, {}), times=100)
    names = (*BOTH, "acme/lock", "acme/ditch")
    with two.source(repositories=names) as source:
        _, failure = given(source, two)
    assert isinstance(failure, SourceUnavailable)
    assert len(two.faults.requests) == 12  # six attempts for each of two


def test_a_repository_that_fails_is_asked_less_often_and_the_others_as_ever(two: World) -> None:
    with source_of_both(two) as source:
        given(source, two)
        two.faults.next(NO_SCOPE, prefix=WEIR, times=10**6)
        polls = 120
        asked_at = []
        for minute in range(polls):
            two.clock.moment += timedelta(minutes=1)
            two.faults.requests.clear()
            failure = given(source, two)[1]
            paths = two.faults.paths()
            assert isinstance(failure, PartUnread)  # said until it is well again
            assert sum(path.startswith("/repos/acme/sluice") for path in paths) == 3
            if any(path.startswith(WEIR) for path in paths):
                asked_at.append(minute)
    assert asked_at[:5] == [0, 1, 3, 7, 15]
    assert len(asked_at) == 5 + (polls - 16) // 15
    with source_of_both(two) as another:  # a run by hand asks at once
        two.faults.requests.clear()
        given(another, two)
        assert WEIR in {path[: len(WEIR)] for path in two.faults.paths()}


def test_a_repository_is_well_again_with_credentials_that_were_changed_meanwhile(
    two: World, tmp_path: Path
) -> None:
    secret = tmp_path / "token"
    secret.write_text("ghp_narrow")
    two.github.tokens.add("ghp_narrow")
    two.faults.next(NO_SCOPE, prefix=WEIR)
    with source_of_both(two, token=f"file:{secret}") as source:
        assert isinstance(given(source, two)[1], PartUnread)
        secret.write_text(TOKEN)
        two.faults.requests.clear()
        two.clock.moment += timedelta(minutes=2)
        read, failure = given(source, two)
        assert failure is None
        assert "acme/weir#1" in read
        assert {seen.headers["authorization"] for seen in two.faults.requests} == {f"Bearer {TOKEN}"}


def test_a_census_lists_all_repositories_or_none(two: World) -> None:
    two.faults.next(NO_SCOPE, prefix=WEIR)
    with pytest.raises(NotAllowed, match=r"check token \(repository acme/weir\)"):
        two.census(repositories=BOTH)
    two.faults.next(answer(404, {}, {"message": "Not Found"}), prefix=WEIR, times=2)
    with pytest.raises(WrongAddress, match="acme/weir is not there"):
        two.census(repositories=BOTH)
    assert {kind for kind, _ in two.census(repositories=BOTH)} >= {Kind.ISSUE, Kind.PULL}
