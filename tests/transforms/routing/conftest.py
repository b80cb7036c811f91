"""A clock that nobody waits for, and routers by it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.transforms.routing.world import FakeClock, FakeEndpoint, Open, router_over
from transforms.postgres import Store
from transforms.routing.router import Router


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def opened(database: Store, clock: FakeClock) -> Iterator[Open]:
    """Makes routers over the test's database, and closes them."""
    with ExitStack() as stack:

        def over(endpoints: dict[str, FakeEndpoint], **settings: object) -> Router:
            router = router_over(database, endpoints, clock, **settings)  # type: ignore[arg-type]
            stack.callback(router.close)
            return router

        yield over
