"""A watcher keeps the index true, whatever its sources do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from benchmarks.stand_in import no_model
from extractors.base import Cursor, Extractor, OnWait, Page
from extractors.read import build_extractor
from pipelines.search import search
from runners import reading, watch
from runners.slices import BuildExtractor
from runners.watch import watch as follow
from schemas.config import Config, Reconcile, Slices
from schemas.documents import Kind, Reference
from schemas.errors import AccessRefused, RateLimited, SetupError, SourceTimeout
from schemas.sources import ExportSource, GitSource, Source
from tests.fakes.git_repo import Repo
from tests.runners.memory_source import MemorySource, building, configured
from tests.runners.world import issue, write_export
from transforms import deliveries, runs
from transforms.deliveries import NewDelivery
from transforms.postgres import Store
from transforms.source_states import SourceState, load_states

MakeConfig = Callable[..., Config]
INTERVAL_S = 0.2


@pytest.fixture(autouse=True)
def _stand_in() -> Iterator[None]:
    with no_model():
        yield


@dataclass
class Followed:
    """A watcher at work, and what it said."""

    config: Config
    store: Store
    said: list[str] = field(default_factory=list)
    timeout_s: float = 15

    def state(self, source: str = "tickets") -> SourceState:
        with self.store.connect() as connection:
            return {one.source: one for one in load_states(connection, "acme")}[source]

    def live(self) -> set[str]:
        return {row[0] for row in self.rows("SELECT native_id FROM documents WHERE deleted_at IS NULL")}

    def rows(self, query: str) -> list[tuple[object, ...]]:
        with self.store.connect() as connection:
            return connection.execute(query).fetchall()  # type: ignore[arg-type]

    def until(self, true: Callable[[], object], timeout_s: float | None = None) -> float:
        """Wait until something is true; gives how long that took, seconds."""
        began = time.monotonic()
        while True:
            with suppress(KeyError):
                if true():
                    return time.monotonic() - began
            assert time.monotonic() - began < (timeout_s or self.timeout_s), self.said
            time.sleep(0.02)


@contextmanager
def followed(
    config: Config,
    store: Store,
    build: BuildExtractor = build_extractor,
    polls: watch.OpenPolls | None = None,
) -> Iterator[Followed]:
    """Watch on a thread until the block is left, by what Ctrl-C does."""
    view = Followed(config, store)
    failures: list[BaseException] = []
    stop = threading.Event()

    def stopping(self: watch._Watch) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        look_after(self)

    look_after = watch._Watch._look_after

    def work() -> None:
        try:
            follow(config, view.said.append, build=build, polls=polls)
        except KeyboardInterrupt:
            pass
        except BaseException as error:
            failures.append(error)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch._Watch, "_look_after", stopping)
        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield view
        finally:
            stop.set()
            thread.join(20)
    assert not thread.is_alive()
    assert failures == []


def with_sources(make_config: MakeConfig, *sources: MemorySource) -> Config:
    found = tuple(configured(source.name, INTERVAL_S) for source in sources)
    return make_config().model_copy(update={"sources": found})


def test_changes_and_deletions_are_followed_and_quiet_polls_leave_no_run(
    make_config: MakeConfig, database: Store
) -> None:
    source = MemorySource()
    source.put("1", "gate")
    with followed(with_sources(make_config, source), database, building(source)) as view:
        view.until(lambda: view.live() == {"1"})
        source.put("2", "sluice")
        view.until(lambda: view.live() == {"1", "2"})
        polled = view.state().last_polled_at
        view.until(lambda: view.state().last_polled_at != polled)
        done = view.rows("SELECT status FROM runs")
    assert done == [("done",), ("done",)]
    assert any("1 new" in line for line in view.said)
    state = view.state()
    assert (state.busy_since, state.next_poll_at) == (None, None)
    assert state.last_success_at is not None
    assert state.last_change_at is not None


def test_one_source_that_hangs_and_one_that_fails_hold_up_no_other(
    make_config: MakeConfig, database: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    class Hanging(MemorySource):
        def pages(self, cursor: Cursor | None) -> Iterator[Page]:
            release.wait(30)
            yield from super().pages(cursor)

    class Failing(MemorySource):
        def pages(self, cursor: Cursor | None) -> Iterator[Page]:
            raise AccessRefused("source 'failing': token may not read this: change token")

    monkeypatch.setattr(watch, "STUCK_AFTER_S", 1.0)
    sources = [Hanging("hanging"), Failing("failing"), MemorySource()]
    for source in sources:
        source.put("1", "gate")
    config = with_sources(make_config, *sources)
    with followed(config, database, building(*sources)) as view:
        view.until(lambda: ("tickets",) in view.rows("SELECT source FROM documents"))
        view.until(lambda: view.state("failing").consecutive_failures >= 3)
        view.until(lambda: "gave nothing" in (view.state("hanging").last_error or ""))
        release.set()
        view.until(lambda: ("hanging",) in view.rows("SELECT source FROM documents"))
        view.until(lambda: view.state("hanging").consecutive_failures == 0)
    refused = "failing: source 'failing': token may not read this: change token"
    assert view.said.count(refused) == 1
    assert "hanging: well again" in view.said
    assert view.state("failing").last_success_at is None


def test_each_source_is_polled_at_its_own_interval(make_config: MakeConfig, database: Store) -> None:
    sources = [MemorySource("often"), MemorySource("seldom")]
    config = make_config().model_copy(
        update={"sources": (configured("often", INTERVAL_S), configured("seldom", 3600))}
    )
    with followed(config, database, building(*sources)) as view:
        view.until(lambda: all(view.state(one.name).last_success_at for one in sources))
        seldom_at = view.state("seldom").last_polled_at
        for _ in range(3):
            polled_at = view.state("often").last_polled_at
            view.until(lambda at=polled_at: view.state("often").last_polled_at != at)  # type: ignore[misc]
        planned = view.state("seldom")
    assert planned.last_polled_at == seldom_at
    assert planned.next_poll_at is not None
    assert planned.last_success_at is not None
    assert planned.next_poll_at - planned.last_success_at == timedelta(hours=1)


def test_a_source_that_fails_is_tried_later_each_time_or_when_it_said(
    make_config: MakeConfig, database: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Limited(MemorySource):
        def pages(self, cursor: Cursor | None) -> Iterator[Page]:
            raise RateLimited("source 'limited' asks for fewer requests", 7200.0)

    class Recovering(MemorySource):
        def pages(self, cursor: Cursor | None) -> Iterator[Page]:
            if len([asked_s for *_, asked_s in asked if asked_s is None]) < 3:
                raise SourceTimeout("source 'failing' did not answer")
            yield from super().pages(cursor)

    asked: list[tuple[int, float, float | None]] = []

    def back_off_s(failures: int, interval_s: float, asked_s: float | None = None) -> float:
        asked.append((failures, interval_s, asked_s))
        return asked_s or 0.01

    monkeypatch.setattr(watch, "back_off_s", back_off_s)
    failing, limited = Recovering("failing"), Limited("limited")
    with followed(with_sources(make_config, failing, limited), database, building(failing, limited)) as view:
        view.until(lambda: view.state("failing").last_success_at)
        waits = view.state("limited")
    assert [failures for failures, _, asked_s in asked if asked_s is None] == [1, 2, 3]
    assert (1, INTERVAL_S, 7200.0) in asked
    assert waits.last_polled_at is not None
    assert waits.next_poll_at is not None
    assert waits.next_poll_at - waits.last_polled_at >= timedelta(hours=2)


def test_a_wait_that_the_source_asks_for_is_shown_and_is_no_failure(
    make_config: MakeConfig, database: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    def build(settings: Source, client: str, data_dir: Path, on_wait: OnWait) -> Extractor:
        class Waiting(MemorySource):
            def pages(self, cursor: Cursor | None) -> Iterator[Page]:
                on_wait("limit of requests reached", 600.0)
                release.wait(30)
                yield from super().pages(cursor)

        return Waiting()

    monkeypatch.setattr(watch, "STUCK_AFTER_S", 0.5)
    with followed(with_sources(make_config, MemorySource()), database, build) as view:
        view.until(lambda: view.state().waiting_until)
        time.sleep(1.0)
        waits = view.state()
        release.set()
        view.until(lambda: view.state().last_success_at)
        over = view.state()
    now = datetime.now(UTC)
    assert (waits.condition(now), waits.waiting_for) == ("waiting", "limit of requests reached")
    assert waits.waiting_until is not None
    assert timedelta(seconds=500) < waits.waiting_until - now < timedelta(seconds=600)
    assert (waits.consecutive_failures, over.consecutive_failures) == (0, 0)
    assert over.waiting_for is None
    assert any("waiting until" in line and "limit of requests reached" in line for line in view.said)


def test_a_defect_of_a_source_is_named_and_what_it_quotes_is_not_said(
    make_config: MakeConfig, database: Store
) -> None:
    class Defective(MemorySource):
        def pages(self, cursor: Cursor | None) -> Iterator[Page]:
            raise KeyError("token=hunter2")

    source = Defective()
    with followed(with_sources(make_config, source), database, building(source)) as view:
        view.until(lambda: view.state().last_error)
    assert "unexpected KeyError in pages" in (view.state().last_error or "")
    assert "hunter2" not in repr((view.said, view.state()))


def test_only_one_watches_or_runs_for_a_client(
    make_config: MakeConfig, database: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "LOCK_WAIT", "50ms")
    source = MemorySource()
    config = with_sources(make_config, source)
    with followed(config, database, building(source)) as view:
        view.until(lambda: view.state().last_success_at)
        with (
            database.connect() as connection,
            pytest.raises(SetupError, match="headrace watch"),
            runs.started(connection, "acme", "0" * 16),
        ):
            pass
        with pytest.raises(SetupError, match="headrace watch"):
            follow(config, view.said.append, duration_s=5, build=building(source))


def test_a_watcher_reconciles_by_itself(make_config: MakeConfig, database: Store) -> None:
    source = MemorySource()
    for number in range(4):
        source.put(str(number), f"gate {number}")
    config = with_sources(make_config, source).model_copy(
        update={"reconcile": Reconcile(interval_h=1 / 7200)}
    )
    with followed(config, database, building(source)) as view:
        view.until(lambda: len(view.live()) == 4)
        source.delete("2")
        view.until(lambda: view.live() == {"0", "1", "3"})
        view.until(lambda: view.state().last_reconciled_at)
        source.items.clear()
        view.until(lambda: view.state().reconcile_error)
        assert len(view.live()) == 3
    assert any("tickets (reconcile): 1 deleted" in line for line in view.said)


def test_deliveries_of_webhooks_are_processed_at_once(make_config: MakeConfig, database: Store) -> None:
    source = MemorySource()
    for number in range(4):
        source.put(str(number), f"gate {number}")
    config = with_sources(make_config, source)
    config = config.model_copy(update={"sources": (configured("tickets", 3600),)})
    with followed(config, database, building(source)) as view:
        view.until(lambda: view.live() == source.items.keys())
        source.delete("1")
        source.put("new", "weir")
        named = (Reference(Kind.ISSUE, "1"), Reference(Kind.ISSUE, "new"))
        with database.connect() as connection:
            deliveries.store(connection, [NewDelivery("acme", "tickets", "d1", "issues", named)])
        took_s = view.until(lambda: view.live() == source.items.keys())
        view.until(lambda: view.rows("SELECT status FROM webhook_deliveries") == [("done",)])
    assert took_s < 5


def test_a_lost_database_connection_is_made_anew(make_config: MakeConfig, database: Store) -> None:
    source = MemorySource()
    source.put("1", "gate")
    with followed(with_sources(make_config, source), database, building(source)) as view:
        view.until(lambda: view.live() == {"1"})
        with psycopg.connect(database.dsn, autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'headrace'"
            )
        source.put("2", "sluice")
        view.until(lambda: view.live() == {"1", "2"})
    assert any("the database failed" in line for line in view.said)


def test_what_a_watcher_leaves_unfinished_is_noted(make_config: MakeConfig, database: Store) -> None:
    release = threading.Event()

    class Hanging(MemorySource):
        def pages(self, cursor: Cursor | None) -> Iterator[Page]:
            yield next(super().pages(cursor))
            release.wait(30)

    source = Hanging()
    source.put("1", "gate")
    config = with_sources(make_config, source).model_copy(update={"slices": Slices(max_documents=1)})
    with followed(config, database, building(source)) as view:
        view.until(lambda: view.rows("SELECT status FROM runs") == [("running",)] and view.live() == {"1"})
    release.set()
    assert view.rows("SELECT status, ended_at IS NULL FROM runs") == [("interrupted", False)]
    assert (view.state().busy_since, view.state().next_poll_at) == (None, None)


@pytest.mark.alone
def test_a_watch_ends_by_itself_and_leaves_a_current_index(make_config: MakeConfig, database: Store) -> None:
    source = MemorySource()
    source.put("1", "gate")
    config = with_sources(make_config, source)
    said: list[str] = []
    began = time.monotonic()
    follow(config, said.append, duration_s=1.0, build=building(source))
    assert time.monotonic() - began < 8
    assert [hit.key for hit in search(config, "gate", client="acme", mode="vector", index="faiss")] == [
        "MILL-1"
    ]


@pytest.mark.alone
@pytest.mark.parametrize("kind", ["git", "export"])
def test_a_change_is_searchable_within_its_poll_interval_and_five_seconds(
    kind: str, make_config: MakeConfig, database: Store, tmp_path: Path
) -> None:
    interval_s = 1.0
    if kind == "git":
        repo = Repo(tmp_path / "code")
        repo.commit("Dig the first race")
        source: GitSource | ExportSource = GitSource(
            type="git", name="code", path=repo.path, poll_interval_s=interval_s
        )
    else:
        path = write_export(tmp_path / "a.jsonl", [issue(1)])
        source = ExportSource(type="export", name="code", paths=(str(path),), poll_interval_s=interval_s)
    config = make_config().model_copy(update={"sources": (source,)})

    def found(word: str) -> bool:
        with suppress(SetupError):
            return any(word in hit.text for hit in search(config, word, client="acme", mode="text"))
        return False

    def in_faiss(documents: int) -> bool:
        with suppress(SetupError):
            hits = search(config, "weir", client="acme", mode="vector", index="faiss")
            return len({hit.document_id for hit in hits}) == documents
        return False

    with followed(config, database) as view:
        view.until(lambda: view.state("code").last_success_at and in_faiss(1))
        if kind == "git":
            repo.commit("Repair the penstock")
        else:
            changed = issue(2)
            changed["fields"]["description"] = "the penstock leaks"
            write_export(path, [issue(1), changed])
        took_s = view.until(lambda: found("penstock"))
        took_faiss_s = took_s + view.until(lambda: in_faiss(2))
    assert took_faiss_s < interval_s + 5


def test_the_slices_of_all_sources_share_the_limits_of_one() -> None:
    limits = reading.shared(Slices(max_documents=4000, max_payload_mib=64), 10)
    assert (limits.max_documents, limits.max_payload_mib) == (400, 6)
    assert reading.shared(Slices(max_documents=2, max_payload_mib=1), 10) == Slices(
        max_documents=1, max_payload_mib=1
    )
