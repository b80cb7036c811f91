"""Eight worker processes on one budget."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

from schemas.allowances import Budget
from tests.transforms.allowance.world import LAPSES_AFTER, World, new_client, request, rule

ROOT = Path(__file__).resolve().parents[3]
WORKERS = 8


@contextmanager
def process(
    world: World, client: str, usd: Decimal, seed: int, hang: str = ""
) -> Iterator[subprocess.Popen[str]]:
    """A worker, see `spender`; killed at the end of the block."""
    given = {
        "kind": world.kind,
        "dsn": world.store.dsn,
        "client": client,
        "usd": str(usd),
        "seed": seed,
        "hang": hang,
    }
    with subprocess.Popen(
        [sys.executable, "-m", "tests.transforms.allowance.spender", json.dumps(given)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TEST_REDIS": world.redis_url},
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def line(running: subprocess.Popen[str]) -> str:
    assert running.stdout is not None
    return running.stdout.readline().strip()


def start(running: subprocess.Popen[str]) -> None:
    assert line(running) == "ready"
    assert running.stdin is not None
    running.stdin.write("go\n")
    running.stdin.flush()


def billed(connection: psycopg.Connection, client: str) -> Decimal:
    found = connection.execute(
        "SELECT coalesce(sum(cost_usd), 0) FROM ai_usage_tracking WHERE client = %s", [client]
    ).fetchone()
    assert found is not None
    return Decimal(found[0])


def test_eight_processes_together_never_exceed_a_budget_and_use_it_up(
    world: World, connection: psycopg.Connection
) -> None:
    world.clock.now = datetime.now(UTC)
    client, usd, budget = new_client(), Decimal("0.001"), Decimal("0.1503")
    rule(connection, Budget(client=client, monthly_usd=budget))
    with ExitStack() as stack:
        workers = [stack.enter_context(process(world, client, usd, seed)) for seed in range(WORKERS)]
        for worker in workers:
            start(worker)
        granted = [int(line(worker).removeprefix("done ")) for worker in workers]
    assert budget - usd < billed(connection, client) <= budget
    assert world.spent(client) == billed(connection, client)
    assert world.book(client).held == {}
    assert sum(number > 0 for number in granted) >= 4, "one alone would prove nothing"


@pytest.mark.parametrize("killed", ["before the ledger", "after the ledger"])
def test_the_request_of_a_killed_process_stays_counted(
    world: World, connection: psycopg.Connection, killed: str
) -> None:
    """At its estimate, as nobody knows whether it was billed; at its cost, if the ledger knows it."""
    world.clock.now = datetime.now(UTC)
    client, usd = new_client(), Decimal("0.001")
    rule(connection, Budget(client=client, monthly_usd=Decimal("0.01")))
    with process(world, client, usd, seed=3, hang=killed) as worker:
        start(worker)
        assert line(worker) == "under way"
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    assert world.spent(client) == usd
    world.clock.pass_(LAPSES_AFTER + timedelta(minutes=1))
    alive = world.worker()
    alive.release(alive.reserve(request(client, "0")))
    assert world.book(client).held == {}
    assert world.spent(client) == (usd if killed == "before the ledger" else billed(connection, client))
