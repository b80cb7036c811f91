"""Both places where books are kept, for real."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes.redis_server import free_port, running_redis
from tests.transforms.allowance.world import KINDS, Clock, World
from transforms.postgres import Store


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server of these tests alone, empty at first; its password is part of it."""
    with running_redis(tmp_path_factory.mktemp("redis"), free_port()) as url:
        yield url


@pytest.fixture(params=KINDS)
def world(
    request: pytest.FixtureRequest, database: Store, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """Each place where books may be kept, empty."""
    monkeypatch.setenv("TEST_REDIS", redis_url)
    found = World(request.param, database, redis_url, Clock())
    found.flush()
    yield found
    found.close()


@pytest.fixture
def redis_world(database: Store, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Books in Redis."""
    monkeypatch.setenv("TEST_REDIS", redis_url)
    found = World("redis", database, redis_url, Clock())
    found.flush()
    yield found
    found.close()
