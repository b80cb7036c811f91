"""What limits and budgets cost a request: reserve and settle, by one worker and by eight at once.

    python -m benchmarks.allowance [--requests 500] [--json FILE]

In an embedded Postgres of its own, with its durability on, and a Redis of its own (`redis-server` on the PATH). Eight
workers on the book of one client are the worst there is: they ask without a pause; real ones wait for a provider.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import redis

from benchmarks.hardware import machine
from benchmarks.suite import save
from schemas.allowances import AllowanceSettings, Budget, RateLimit
from transforms import embedded_postgres
from transforms.allowance.base import Estimate
from transforms.allowance.opening import open_allowance
from transforms.allowance.rules import set_rule
from transforms.migrate import migrate
from transforms.postgres import Store

WORKERS = 8
URL = "HEADRACE_BENCHMARK_REDIS"


def pair_ms(kind: str, dsn: str, requests: int) -> list[float]:
    """Milliseconds of each reservation with its settlement."""
    settings = AllowanceSettings(kind="redis", url=f"env:{URL}") if kind == "redis" else AllowanceSettings()
    allowance = open_allowance(settings, Store(dsn), partial(datetime.now, UTC))
    took = []
    for _ in range(requests):
        began = time.perf_counter()
        reservation = allowance.reserve(Estimate("acme", "openai", 1, 100, Decimal("0.000002")))
        allowance.settle(reservation, 90, Decimal("0.0000018"))
        took.append(1000 * (time.perf_counter() - began))
    allowance.close()
    return took


def together(kind: str, dsn: str, requests: int, workers: int) -> dict[str, float]:
    """Figures of so many processes at once; their start is left out."""
    command = [sys.executable, "-m", "benchmarks.allowance", "--worker", kind, dsn, str(requests)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(workers)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    began = time.perf_counter()
    answers = [process.communicate("go\n")[0] for process in processes]
    seconds = time.perf_counter() - began
    took = [ms for answer in answers for ms in json.loads(answer)]
    return {
        "median_ms": round(statistics.median(took), 3),
        "p99_ms": round(statistics.quantiles(took, n=100)[98], 3),
        "pairs_per_s": round(len(took) / seconds),
    }


def worker(kind: str, dsn: str, requests: int) -> None:
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(pair_ms(kind, dsn, requests)))


@contextmanager
def own_redis(folder: Path) -> Iterator[str]:
    """URL of a server that ends with the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    with subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL) as process:
        url = f"redis://127.0.0.1:{port}/0"
        with redis.Redis.from_url(
            url, retry=redis.retry.Retry(redis.backoff.ConstantBackoff(0.1), 50)
        ) as client:
            client.ping()
        yield url
        process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--requests", type=int, default=500, help="of each worker")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        kind, dsn, requests = options.worker
        worker(kind, dsn, int(requests))
        return
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="headrace-") as folder, own_redis(Path(folder)) as url:
        os.environ[URL] = url
        dsn = embedded_postgres.start(Path(folder) / "postgres")
        try:
            with Store(dsn).connect_plainly() as connection:
                migrate(connection)
                set_rule(connection, Budget(client="acme", monthly_usd=Decimal(1000)))
                set_rule(
                    connection, RateLimit(client="acme", requests_per_minute=10**6, tokens_per_hour=10**9)
                )
            for kind in ("postgres", "redis"):
                for workers in (1, WORKERS):
                    figures[f"{kind}, {workers} workers"] = together(kind, dsn, options.requests, workers)
        finally:
            embedded_postgres.stop(Path(folder) / "postgres")
    print(json.dumps(figures, indent=1))
    if options.json:
        save(options.json, {"machine": machine(), "allowance": figures})


if __name__ == "__main__":
    main()
