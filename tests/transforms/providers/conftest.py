"""One server for all fakes; each test puts its own in place."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes.other_providers import KEY
from tests.fakes.serving import Stage, serve


@pytest.fixture(scope="session")
def stage() -> Iterator[tuple[Stage, str]]:
    stage = Stage()
    with serve(stage) as url:
        yield stage, url


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_KEY", KEY)
