"""Whatever people do at GitHub and Jira, and wherever headrace dies: the index holds what it owes.

Everything is real but the two services: HTTP, readers, pipeline, watcher, queue of deliveries, reconciliation,
Postgres and FAISS. What is owed after which sync, `Duty` says. `HEADRACE_TEST_HISTORIES=200` tries more of them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from benchmarks.stand_in import StandIn, no_model
from extractors.base import Extractor, OnWait
from pipelines.verify import verify
from runners.progress_bar import run_progress
from runners.reconcile import reconcile_sources
from runners.run import run
from schemas.config import Chunking, Config, Reconcile, Slices
from schemas.errors import PipelineError
from schemas.sources import Source
from tests.fakes.github import TOKEN
from tests.fakes.serving import Stage, answer, github_secondary_limit, serve, torn
from tests.runners.dying import Life, living
from tests.runners.live_index import Duty, buried, forget_all, held, sums
from tests.runners.live_world import GITHUB_EVENTS, JIRA_EVENTS, TOKEN_VARIABLE, Event, LiveWorld
from tests.runners.looking import Watcher
from transforms import deliveries, runs
from transforms.deliveries import NewDelivery, queue_state
from transforms.embedders.base import TokenIds, Vectors
from transforms.postgres import Store
from transforms.source_states import Work

HISTORIES = int(os.environ.get("HEADRACE_TEST_HISTORIES", "4"))
DAY_S = 25 * 3600.0


@dataclass(frozen=True)
class Sync:
    """A look at both sources, by a process of its own.

    Args:
        by: `headrace run` or `headrace reconcile`, or a watcher's look.
        cut: what lists leave out meanwhile.
        dies_at: the step at which its process dies.
        trouble: on the way to the services.
    """

    what: Literal["poll", "sweep", "deliveries", "reconcile"]
    by: Literal["command", "watch"] = "command"
    cut: tuple[int, ...] = ()
    dies_at: int | None = None
    trouble: Literal["torn", "limit", "away"] | None = None


places = st.integers(0, 60)
told = st.sampled_from(["never", "never", "at once", "twice", "late"])
pauses = st.sampled_from([0, 1, 1, 30, 400, 4000])
events = st.one_of(
    st.builds(Event, st.just("github"), st.sampled_from(GITHUB_EVENTS), places, pauses, told),
    st.builds(Event, st.just("jira"), st.sampled_from(JIRA_EVENTS), places, pauses, told),
)
syncs = st.builds(
    Sync,
    st.sampled_from(["poll", "poll", "deliveries", "sweep", "reconcile"]),
    st.sampled_from(["command", "watch"]),
    st.one_of(st.just(()), st.just(()), st.lists(places, max_size=3).map(tuple)),
    st.one_of(st.none(), st.none(), st.integers(0, 60), st.integers(0, 250)),
    st.sampled_from([None, None, None, "torn", "limit", "away"]),
)
histories = st.lists(st.tuples(st.lists(events, min_size=3, max_size=12), syncs), min_size=2, max_size=6)


@dataclass
class Follower:
    """headrace, told to look at a world now and then."""

    world: LiveWorld
    config: Config
    database: Store
    _drawer: list[NewDelivery] = field(default_factory=list)
    _opened: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.duty = Duty(self.world)

    def happen(self, event: Event) -> None:
        told = self.world.happen(event, self.config.sources)
        self.duty.note_change()
        if event.told in ("at once", "twice"):
            self.deliver(told)
        if event.told in ("late", "twice"):
            self._drawer = told + self._drawer  # they arrive in the wrong order

    def deliver(self, new: Sequence[NewDelivery]) -> None:
        with self.database.connect() as connection:
            for one in new:
                if deliveries.store(connection, [one]):
                    docs = [(one.source, named.kind, named.native_id) for named in one.references]
                    self.duty.note_delivery(docs)

    def sync(self, how: Sync) -> bool:
        """Look; gives whether it came to its end."""
        if how.what == "sweep":
            self.world.clock.sleep(DAY_S)
        if how.what == "deliveries":
            self.deliver(self._drawer)
            self._drawer = []
            with self.database.connect() as connection:  # those that failed are tried again now
                connection.execute("UPDATE webhook_deliveries SET due_at = clock_timestamp()")
        by_watcher = how.by == "watch" or how.what == "deliveries"
        if not by_watcher:
            self.close()
        self._prepare(how.trouble)
        before, given = sums(self.database), Given()
        with self.world.listings_without(how.cut) as cut:
            self.duty.note_cut(cut)
            done = False
            with given.counted(), living(how.dies_at) as life:
                done = self._watched(how) if by_watcher else self._commanded(how)
            done = done and not life.is_over
            self._check(before, given, life)
            if done:
                self._note_done(how, cut)
        if not (done and by_watcher):
            self.close()
        wrong = self.duty.wrong(held(self.database, self.config))
        assert not wrong, (how, wrong)
        assert buried(self.database) <= self.duty.ever_gone
        if done:
            report = verify(self.config, "acme")
            assert report.ok, report
        return done

    def _commanded(self, how: Sync) -> bool:
        with run_progress(Console(quiet=True), visible=False) as bar, suppress(PipelineError):
            if how.what == "reconcile":
                return reconcile_sources(self.config, bar, force=True, build=self._build).ok
            return run(self.config, bar, build=self._build).ok
        return False

    def _watched(self, how: Sync) -> bool:
        work: Work = "poll" if how.what == "sweep" else how.what
        with self.database.connect() as connection, runs.only_writer(connection, "acme"):
            watcher = Watcher(self.config, connection, self.database, lambda line: None, self._build, None)
            failures = watcher.look(work)
            return not failures and (work != "deliveries" or queue_state(connection).pending == 0)

    def _build(self, source: Source, client: str, data_dir: Path, on_wait: OnWait) -> Extractor:
        """A watcher goes on with the reader that it has."""
        if source.name not in self._opened:
            self._opened[source.name] = self.world.build(source, client, data_dir, on_wait)
        found: Extractor = self._opened[source.name]
        return found

    def close(self) -> None:
        for extractor in self._opened.values():
            extractor.close()
        self._opened.clear()

    def _prepare(self, trouble: str | None) -> None:
        for faults in (self.world.github_faults, self.world.jira_faults):
            faults.clear()
            if trouble == "torn":
                faults.next(torn(), prefix="/re", times=2)
            elif trouble == "limit":
                faults.next(github_secondary_limit(7, 429), prefix="/re")
            elif trouble == "away":
                faults.next(answer(503), times=40)

    def _note_done(self, how: Sync, cut: set[Any]) -> None:
        if how.what in ("poll", "sweep"):
            self.duty.polled(cut)
        if how.what == "sweep":
            self.duty.swept(cut)
        if how.what == "deliveries":
            self.duty.delivered(cut)
        if how.what == "reconcile":
            self.duty.reconciled()

    def _check(self, before: dict[str, Any], given: Given, life: Life) -> None:
        after = sums(self.database)
        inputs, tokens = (after[name] - before[name] for name in ("inputs", "tokens"))
        assert inputs <= given.inputs
        assert life.is_over or (inputs, tokens) == (given.inputs, given.tokens)
        assert after["letters"] == []


class Given:
    """What the engine was given."""

    def __init__(self) -> None:
        self.inputs = self.tokens = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        compute = StandIn.run

        def counting(engine: StandIn, batch: Sequence[TokenIds]) -> Vectors:
            self.inputs += len(batch)
            self.tokens += sum(len(ids) for ids in batch)
            return compute(engine, batch)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(StandIn, "run", counting)
            yield


@pytest.fixture(scope="module")
def stages() -> Iterator[tuple[tuple[Stage, str], tuple[Stage, str]]]:
    """Servers of the two services."""
    github, jira = Stage(), Stage()
    with serve(github) as github_url, serve(jira) as jira_url:
        yield (github, github_url), (jira, jira_url)


@pytest.fixture(autouse=True)
def _quiet_beam() -> None:
    """As the command line does it: Beam logs the traceback of a failing step, and raises it as well."""
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)


@pytest.fixture
def config(make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> Config:
    """Small slices and chunks, so that there is more than one of each."""
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    return make_config().model_copy(
        update={
            "slices": Slices(max_documents=8),
            "chunking": Chunking(max_tokens=40, overlap_tokens=4, context_title_tokens=4),
            "reconcile": Reconcile(max_share=1),
        }
    )


ISSUES, COMMENTS = [Event("jira", "issue", 0)] * 3, [Event("github", "comment", 0)] * 2


@pytest.mark.slow
@pytest.mark.timeout(60 + 60 * HISTORIES)
@settings(
    max_examples=HISTORIES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # to shrink a history takes minutes
)
@given(
    history=histories,
    data_center=st.booleans(),
    lag_s=st.sampled_from([0, 0, 20, 250]),
    page_size=st.sampled_from([2, 5, 100]),
)
@example(history=[(ISSUES, Sync("reconcile", cut=(1,)))], data_center=True, lag_s=0, page_size=2)
@example(
    history=[(COMMENTS, Sync("poll")), (COMMENTS, Sync("poll"))], data_center=False, lag_s=0, page_size=2
)
def test_an_index_that_follows_github_and_jira_holds_what_it_owes(
    stages: tuple[tuple[Stage, str], tuple[Stage, str]],
    config: Config,
    database: Store,
    history: list[tuple[list[Event], Sync]],
    data_center: bool,
    lag_s: int,
    page_size: int,
) -> None:
    world = LiveWorld(data_center=data_center, lag_s=lag_s, page_size=page_size)
    (github, github_url), (jira, jira_url) = stages
    github.app, jira.app = world.github_faults, world.jira_faults
    config = config.model_copy(update={"sources": world.settings(github_url, jira_url)})
    with no_model(), closing(Follower(world, config, database)) as follower:
        forget_all(database, config)
        assert follower.sync(Sync("poll"))
        for happening, how in history:
            for event in happening:
                follower.happen(event)
            follower.sync(how)
        world.clock.sleep(lag_s + 1)
        for what in ("poll", "sweep", "reconcile"):
            assert follower.sync(Sync(what))
        assert follower.duty.is_all
