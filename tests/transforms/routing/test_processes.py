"""Workers are processes of their own: what one finds out of an endpoint, the others know."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.fakes.embedding_provider import DIMENSIONS, KEY, MODEL, FakeProvider
from tests.fakes.serving import Stage, serve
from transforms.postgres import Store

ROOT = Path(__file__).resolve().parents[3]

WORKER = """
import sys
from schemas.allowances import AllowanceSettings
from schemas.config import Model
from schemas.errors import Parked
from transforms.postgres import Store
from transforms.providers.engine import open_remote_engine
from transforms.providers.inputs import TextInput
from transforms.providers.metering import Account
from transforms.embedders.models import space_of

dsn, name, dimensions, text = sys.argv[1:]
model = Model(integration="main", name=name, dimensions=int(dimensions), max_tokens=64)
account = Account("acme", None, space_of(model).space_id)
engine = open_remote_engine(model, "document", Store(dsn), account, AllowanceSettings())
try:
    print(engine.run([TextInput(text, 3)]).shape)
except Parked as parked:
    print("parked:", parked)
engine.close()
"""


@pytest.fixture
def fake() -> FakeProvider:
    return FakeProvider()


@pytest.fixture
def served(fake: FakeProvider, database: Store, connection: psycopg.Connection) -> Iterator[None]:
    """`main` of the table leads to the fake."""
    stage = Stage()
    stage.app = fake
    with serve(stage) as url:
        connection.execute(
            "INSERT INTO integrations (name, provider, model, url, api_key, price_usd_per_million_tokens,"
            " price_as_of) VALUES ('main', 'gateway', %s, %s, 'env:HEADRACE_TEST_PROVIDER_KEY', 0, '2026-11-21')",
            [MODEL, f"{url}/v1"],
        )
        yield


def worker(database: Store, monkeypatch: pytest.MonkeyPatch, text: str) -> str:
    monkeypatch.setenv("HEADRACE_TEST_PROVIDER_KEY", KEY)
    done = subprocess.run(
        [sys.executable, "-c", WORKER, database.dsn, MODEL, str(DIMENSIONS), text],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.usefixtures("served")
def test_a_second_worker_does_not_ask_an_endpoint_that_the_first_found_closed(
    database: Store, connection: psycopg.Connection, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert worker(database, monkeypatch, "before the key was changed") == f"(1, {DIMENSIONS})"
    fake.key = "another"
    assert worker(database, monkeypatch, "after it").startswith("parked: no endpoint can be asked: ")
    asked = fake.requests
    assert "401" in worker(database, monkeypatch, "after it")
    assert fake.requests == asked
    fake.key = KEY
    connection.execute("UPDATE endpoint_states SET retry_at = now()")
    assert worker(database, monkeypatch, "after it") == f"(1, {DIMENSIONS})"
    assert connection.execute("SELECT state FROM endpoint_states").fetchall() == [("closed",)]
