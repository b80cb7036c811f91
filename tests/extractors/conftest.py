"""A fake GitHub for every test that asks for one, behind one server for all of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.extractors.github_world import Clock, World
from tests.fakes.github import TOKEN, FakeGitHub
from tests.fakes.serving import Faults, Stage, serve


@pytest.fixture(scope="session")
def stage() -> Iterator[tuple[Stage, str]]:
    """A server, and where it listens."""
    stage = Stage()
    with serve(stage) as url:
        yield stage, url


@pytest.fixture
def world(stage: tuple[Stage, str], monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("T", TOKEN)
    clock = Clock()
    github = FakeGitHub(clock.now)
    faults = Faults(github)
    stage[0].app = faults
    return World(stage[1], clock, github, faults)
