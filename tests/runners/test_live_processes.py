"""`headrace watch` and `headrace webhooks` as processes, between a fake GitHub and a fake Jira and whoever searches.

GitHub is polled once an hour, so that what is found of it sooner came by a delivery; Jira is polled every two seconds
and delivers nothing.
"""

from __future__ import annotations

import hmac
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import httpx
import orjson
import pytest

from pipelines.search import search
from pipelines.verify import verify
from schemas.config import Config, load_config
from schemas.errors import SetupError
from tests.fakes.github import TOKEN, FakeGitHub
from tests.fakes.github_contents import Json
from tests.fakes.jira import FakeJira
from tests.fakes.serving import serve
from tests.runners.stored_text import all_text
from tests.runners.world import DSN
from tests.transforms.embedders.tiny_models import write_model
from transforms.postgres import Store

ROOT = Path(__file__).parents[2]
POLL_INTERVAL_S = 2.0
HOOK_SECRET = "hook-S3CR3T"
WITHIN_S = 5.0
TIMEOUT_S = 60.0

CONFIG = f"""
client = "acme"
data_dir = "data"
postgres.dsn = "env:{DSN}"
webhooks.port = 0

[model]
name = "tiny/bert"
folder = "tiny"

[[sources]]
type = "github"
name = "github"
repositories = ["acme/sluice"]
api_url = "{{github}}"
token = "env:HEADRACE_TEST_TOKEN"
webhook_secret = "env:HEADRACE_TEST_HOOK"
poll_interval_s = 3600

[[sources]]
type = "jira"
name = "jira"
site_url = "{{jira}}"
projects = ["ABC"]
token = "env:HEADRACE_TEST_TOKEN"
poll_interval_s = {POLL_INTERVAL_S}
"""


class Place:
    """The two services, the configuration, and the processes that were started."""

    def __init__(self, folder: Path, database: Store) -> None:
        self.github = FakeGitHub(lambda: datetime.now(UTC))
        self.jira = FakeJira(lambda: datetime.now(UTC), accepts=f"Bearer {TOKEN}")
        self.sluice = self.github.repository("acme/sluice")
        self.database = database
        self._folder = folder
        self._delivered = 0

    def configure(self, github_url: str, jira_url: str) -> Config:
        write_model(self._folder / "tiny")
        path = self._folder / "headrace.toml"
        path.write_text(CONFIG.format(github=github_url, jira=jira_url), encoding="utf-8")
        self.config = load_config(path)
        return self.config

    @contextmanager
    def process(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """`headrace` with these arguments; what it prints goes to a file by its name."""
        with self.output(arguments[0]).open("ab") as output:
            started = subprocess.Popen(
                [sys.executable, "-m", "runners.cli", *arguments, "-c", self._folder / "headrace.toml"],
                stdout=output,
                stderr=output,
                cwd=ROOT,
            )
        try:
            yield started
        finally:
            if started.poll() is None:
                started.kill()
            started.wait()

    def output(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def said(self, name: str) -> str:
        return self.output(name).read_text(encoding="utf-8")

    def deliver(self, address: str, event: str, action: str, issue: Json) -> None:
        body = orjson.dumps({"action": action, "issue": issue, "repository": {"full_name": "acme/sluice"}})
        self._delivered += 1
        headers = {
            "x-hub-signature-256": "sha256=" + hmac.new(HOOK_SECRET.encode(), body, "sha256").hexdigest(),
            "x-github-event": event,
            "x-github-delivery": f"delivery-{self._delivered}",
            "content-type": "application/json",
        }
        answer = httpx.post(address, content=body, headers=headers, trust_env=False)
        assert (answer.status_code, answer.text) == (202, "stored")

    def issue(self, number: int) -> Json:
        return dict(self.sluice.values["issues"][number])

    def edit(self, number: int, title: str) -> Json:
        self.github.edit(self.sluice, number, title=title)
        return self.issue(number)

    # What is found

    def found(self, word: str) -> bool:
        """By words in Postgres and by vectors in FAISS."""
        with suppress(SetupError):
            in_postgres = search(self.config, word, client="acme", mode="text", limit=100)
            in_faiss = search(self.config, word, client="acme", mode="vector", index="faiss", limit=100)
            return all(any(word in hit.text for hit in hits) for hits in (in_postgres, in_faiss))
        return False

    def titles(self) -> set[str]:
        """Of all documents that live."""
        with self.database.connect() as connection:
            rows = connection.execute("SELECT title FROM documents WHERE deleted_at IS NULL").fetchall()
        return {title for (title,) in rows}

    def truth(self) -> set[str]:
        shown = {issue["title"] for issue in self.sluice.values["issues"].values()}
        return shown | {issue.fields["summary"] for issue in self.jira.issues.values()}

    def lost(self, word: str) -> bool:
        in_postgres = search(self.config, word, client="acme", mode="text", limit=100)
        in_faiss = search(self.config, word, client="acme", mode="vector", index="faiss", limit=100)
        return not any(word in hit.text for hit in (*in_postgres, *in_faiss))

    def until(self, true: Callable[[], bool]) -> float:
        """Wait until something is true; gives how long that took, seconds."""
        began_s = time.monotonic()
        while not true():
            assert time.monotonic() - began_s < TIMEOUT_S, self.output("watch").read_text()
            time.sleep(0.05)
        return time.monotonic() - began_s

    def address(self) -> str:
        """Where GitHub is to deliver."""

        def line() -> str:
            return next((line for line in self.said("webhooks").splitlines() if "/github/" in line), "")

        self.until(lambda: bool(line()))
        return line().strip()


@pytest.fixture
def place(tmp_path: Path, database: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv(DSN, database.dsn)
    monkeypatch.setenv("HEADRACE_TEST_TOKEN", TOKEN)
    monkeypatch.setenv("HEADRACE_TEST_HOOK", HOOK_SECRET)
    made = Place(tmp_path, database)
    with serve(made.github) as github_url, serve(made.jira.app) as jira_url:
        made.configure(github_url, jira_url)
        yield made


@pytest.mark.alone
@pytest.mark.slow
def test_changes_are_searchable_in_seconds_and_deletions_are_gone(place: Place) -> None:
    gate = place.github.create(place.sluice, title="The gate jams")
    weir = place.github.create(place.sluice, title="The weir leaks")
    ticket = place.jira.create("ABC", summary="The turbine hums")
    other = place.jira.create("ABC", summary="The relay clicks")
    took_s: dict[str, float] = {}
    with place.process("watch") as watcher, place.process("webhooks") as receiver:
        address = place.address()
        place.until(lambda: place.found("turbine") and place.found("weir"))

        place.deliver(address, "issues", "edited", place.edit(gate, "The penstock jams"))
        took_s["edited, with a delivery"] = place.until(lambda: place.found("penstock"))

        place.jira.edit(ticket, summary="The dynamo hums")
        took_s["edited, without a delivery"] = place.until(lambda: place.found("dynamo"))

        leaving = place.issue(weir)
        place.github.delete(place.sluice, weir)
        place.deliver(address, "issues", "deleted", leaving)
        took_s["deleted, with a delivery"] = place.until(lambda: place.lost("weir"))

        place.jira.delete(other)
        time.sleep(POLL_INTERVAL_S + 1)
        assert place.found("relay")  # no poll sees it
        for process in (watcher, receiver):
            process.send_signal(signal.SIGTERM)
        assert (watcher.wait(20), receiver.wait(20)) == (0, 0)
    with place.process("reconcile") as reconciliation:
        assert reconciliation.wait(TIMEOUT_S) == 0
    assert place.lost("relay")
    assert verify(place.config, "acme").ok
    assert "Traceback" not in place.said("watch") + place.said("webhooks")
    for secret in (TOKEN, HOOK_SECRET):
        assert secret not in place.said("watch") + place.said("webhooks") + all_text(place.database)
    print("".join(f"\n{what}: searchable after {seconds:.1f} s" for what, seconds in took_s.items()))
    assert took_s["edited, with a delivery"] < WITHIN_S
    assert took_s["deleted, with a delivery"] < WITHIN_S
    assert took_s["edited, without a delivery"] < POLL_INTERVAL_S + WITHIN_S


@pytest.mark.slow
def test_a_watcher_that_is_killed_loses_nothing(place: Place) -> None:
    gates = [place.github.create(place.sluice, title=f"Gate {n} jams") for n in range(12)]
    hums = [place.jira.create("ABC", summary=f"Turbine {n} hums") for n in range(12)]

    def first_stored() -> bool:
        return bool(place.titles() & place.truth() - known)

    moments: list[Callable[[], object]] = [
        lambda: None,
        lambda: place.until(first_stored),
        lambda: time.sleep(0.7),
    ]
    with ExitStack() as processes:
        processes.enter_context(place.process("webhooks"))
        address = place.address()
        watcher = processes.enter_context(place.process("watch"))
        place.until(lambda: place.titles() == place.truth())
        for number, moment in enumerate(moments):
            known = place.titles()
            for gate in gates[number::3]:
                place.deliver(address, "issues", "edited", place.edit(gate, f"Gate {gate} jams, {number}"))
            for hum in hums[number::3]:
                place.jira.edit(hum, summary=f"Turbine {hum} hums, {number}")
            leaving = place.issue(gates[number])
            place.github.delete(place.sluice, gates[number])
            place.deliver(address, "issues", "deleted", leaving)
            moment()
            watcher.kill()
            watcher.wait()
            watcher = processes.enter_context(place.process("watch"))
        place.until(lambda: place.titles() == place.truth())
        place.until(lambda: verify(place.config, "acme").ok)
        with place.database.connect() as connection:
            pending = connection.execute("SELECT count(*) FROM webhook_deliveries WHERE status <> 'done'")
            assert pending.fetchone() == (0,)
        watcher.send_signal(signal.SIGTERM)
        assert watcher.wait(20) == 0
