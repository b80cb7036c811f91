"""What reading a site costs, in a process of its own: its memory and its processor time are the connector's.

    python -m benchmarks.connector_reading jira-cloud http://127.0.0.1:4711
    python -m benchmarks.connector_reading pipeline http://127.0.0.1:4711

The site is one of benchmarks.connector_sites. Prints JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import orjson

from benchmarks.connector_sites import REPOSITORY
from benchmarks.hardware import load_average
from benchmarks.memory import peak_memory, peak_resident_bytes
from extractors.base import Cursor, Page, Reference
from extractors.github_live import GitHubRepositories
from extractors.jira_site import JiraSite
from schemas.documents import Kind
from schemas.sources import GitHubSource, JiraSource
from tests.fakes.github import TOKEN

CHANGED = 100
CLIENT, TOKEN_VARIABLE = "benchmark", "HEADRACE_BENCHMARK_TOKEN"

Facts = dict[str, Any]


class Meter:
    """What a site says of the requests made to it."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=600)

    def counts(self) -> dict[str, int]:
        """`requests`, of them `free` (304), and `bytes` of the bodies sent."""
        return self._told("/-/counts")

    def change(self, count: int) -> dict[str, int]:
        """Change so many issues; gives what that was, as `Holdings`."""
        return self._told(f"/-/change?count={count}")

    def step(self, work: Callable[[], Facts]) -> Facts:
        """What `work` tells, and what it cost."""
        before, started, cpu = self.counts(), time.perf_counter(), time.process_time()
        facts = work()
        seconds, cpu_s, after = time.perf_counter() - started, time.process_time() - cpu, self.counts()
        cost = {name: after[name] - before[name] for name in after}
        return (
            facts
            | cost
            | {
                "seconds": round(seconds, 3),
                "cpu_s": round(cpu_s, 3),
                "peak_mib": round(peak_resident_bytes() / 2**20, 1),
            }
        )

    def close(self) -> None:
        self._client.close()

    def _told(self, path: str) -> dict[str, int]:
        told: dict[str, int] = orjson.loads(self._client.get(path).raise_for_status().content)
        return told


class Reader:
    """A live source and its cursor, which is kept as a run keeps it."""

    def __init__(self, extractor: JiraSite | GitHubRepositories) -> None:
        self._extractor = extractor
        self._cursor: Cursor | None = None
        self.last_seen: list[Reference] = []

    def poll(self) -> Facts:
        """Read all there is to read."""
        found: dict[str, int] = dict.fromkeys(("issues", "records", "payload_bytes"), 0)
        for page in self._pages():
            seen = [
                Reference(record.kind, record.native_id, record.locator)
                for record in page.records
                if record.kind in (Kind.ISSUE, Kind.PULL)
            ]
            found["issues"] += len(seen)
            found["records"] += len(page.records)
            found["payload_bytes"] += sum(len(record.payload) for record in page.records)
            self.last_seen = [*self.last_seen, *seen][-CHANGED:]
        return found

    def census(self) -> Facts:
        return {"references": sum(map(len, self._extractor.census()))}

    def look_again(self) -> Facts:
        """At the issues read last."""
        pages = list(self._extractor.look_again(self.last_seen))
        return {
            "references": len(self.last_seen),
            "records": sum(len(page.records) for page in pages),
            "gone": sum(len(page.tombstones) for page in pages),
        }

    def _pages(self) -> Iterator[Page]:
        for page in self._extractor.pages(self._cursor):
            self._cursor = orjson.loads(orjson.dumps(page.cursor))
            yield page


def extractor_of(product: str, url: str) -> JiraSite | GitHubRepositories:
    """The live source of a product, as a person would configure it."""

    def now() -> datetime:
        return datetime.now(UTC)

    if product != "github":
        return JiraSite(jira_source(url), CLIENT, _tell_of_wait, now=now, sleep=time.sleep)
    os.environ[TOKEN_VARIABLE] = TOKEN
    settings = GitHubSource(
        type="github", name="fake", repositories=(REPOSITORY,), api_url=url, token=f"env:{TOKEN_VARIABLE}"
    )
    return GitHubRepositories(settings, CLIENT, _tell_of_wait, now=now, sleep=time.sleep)


def jira_source(url: str) -> JiraSource:
    return JiraSource(type="jira", name="fake", site_url=url)


def _tell_of_wait(why: str, seconds: float) -> None:
    print(f"waiting {seconds:.0f} s: {why}", file=sys.stderr, flush=True)


def read_site(product: str, url: str) -> Facts:
    """Each step's cost; `changed` is what was changed before the poll of that name."""
    with closing(Meter(url)) as meter, closing(extractor_of(product, url)) as extractor:
        reader = Reader(extractor)
        steps = {name: meter.step(reader.poll) for name in ("read", "first poll", "quiet poll")}
        changed = meter.change(CHANGED)
        steps["poll of changes"] = meter.step(reader.poll)
        steps["look again"] = meter.step(reader.look_again)
        steps["census"] = meter.step(reader.census)
    return {"steps": steps, "changed": changed, "load_average": load_average()}


def run_pipeline(url: str) -> Facts:
    """A whole run into an embedded Postgres, one more with nothing new, and one that reads everything again."""
    from rich.console import Console

    from benchmarks.stand_in import no_model
    from runners.progress_bar import run_progress
    from runners.run import run
    from schemas.config import Config
    from transforms import embedded_postgres

    work = Path(tempfile.mkdtemp(prefix="headrace-connectors-"))
    source = jira_source(url)
    again = source.model_copy(update={"sweep_interval_h": 1e-9})
    found: Facts = {}
    try:
        with closing(Meter(url)) as meter, no_model():
            for name, configured in (("first run", source), ("second run", source), ("sweep", again)):
                config = Config(client=CLIENT, data_dir=work, sources=(configured,))

                def one_run(config: Config = config) -> Facts:
                    with run_progress(Console(stderr=True), visible=False) as bar:
                        summary = run(config, bar)
                    assert summary.ok, summary.failures
                    return {"outcomes": dict(summary.totals), "vectors": summary.quality.vectors}

                with peak_memory() as peak:
                    found[name] = meter.step(one_run)
                found[name]["peak_mib"] = round(peak.bytes / 2**20, 1)  # Postgres included
    finally:
        embedded_postgres.stop(work / "postgres")
        shutil.rmtree(work, ignore_errors=True)
    return {"steps": found, "load_average": load_average()}


def main() -> int:
    product, url = sys.argv[1:]
    print(json.dumps(run_pipeline(url) if product == "pipeline" else read_site(product, url)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
