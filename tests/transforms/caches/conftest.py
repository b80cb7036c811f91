"""A real Redis for the tests that need one, where there is one to start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes.redis_server import free_port, running_redis


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server of these tests alone, empty at first; its password is part of it."""
    with running_redis(tmp_path_factory.mktemp("redis"), free_port()) as url:
        yield url
