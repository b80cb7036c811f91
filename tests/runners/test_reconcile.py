"""Nothing is deleted but what its source says is gone, and everything that is gone is deleted."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from rich.console import Console

import pipelines.reconcile
from benchmarks.stand_in import no_model
from runners.progress_bar import run_progress
from runners.reconcile import ReconcileSummary, reconcile_sources
from runners.run import run
from schemas.config import Config, Reconcile
from schemas.errors import AccessRefused, SetupError, UnknownName
from tests.runners.memory_source import MemorySource, building, configured
from transforms import runs
from transforms.postgres import Store
from transforms.source_states import SourceState, load_states

MakeConfig = Callable[..., Config]


@pytest.fixture(autouse=True)
def _stand_in() -> Iterator[None]:
    with no_model():
        yield


@pytest.fixture
def config(make_config: MakeConfig) -> Config:
    return make_config().model_copy(
        update={"sources": (configured(),), "reconcile": Reconcile(max_share=0.1)}
    )


def filled(config: Config, documents: int) -> MemorySource:
    """A source whose documents are all stored."""
    source = MemorySource()
    for number in range(documents):
        source.put(str(number), f"gate {number}")
    sync(config, source)
    return source


def sync(config: Config, source: MemorySource) -> None:
    with run_progress(Console(quiet=True), visible=False) as bar:
        run(config, bar, build=building(source))


def reconciled(
    config: Config,
    *sources: MemorySource,
    force: bool = False,
    dry_run: bool = False,
    name: str | None = None,
) -> ReconcileSummary:
    with run_progress(Console(quiet=True), visible=False) as bar:
        return reconcile_sources(
            config, bar, name=name, force=force, dry_run=dry_run, build=building(*sources)
        )


def live(database: Store) -> set[str]:
    with database.connect() as connection:
        rows = connection.execute("SELECT native_id FROM documents WHERE deleted_at IS NULL").fetchall()
    return {native_id for (native_id,) in rows}


def state(database: Store) -> SourceState:
    with database.connect() as connection:
        (found,) = load_states(connection, "acme")
    return found


def test_what_is_gone_is_deleted_and_what_was_missed_is_stored(config: Config, database: Store) -> None:
    source = filled(config, 8)
    source.delete("3")
    source.put("new", "never polled")
    (report,) = reconciled(config, source).reports
    assert report.difference is not None
    assert (report.difference.in_source, report.difference.in_store) == (8, 8)
    assert (report.difference.missing_in_source, report.difference.missing_in_store) == (1, 1)
    assert (report.gone, report.there, report.unanswered) == (1, 1, 0)
    assert report.outcomes == {"deleted": 1, "new": 1}
    assert live(database) == source.items.keys()
    assert sorted(source.looked_at) == ["3", "new"]
    assert reconciled(config, source).reports[0].outcomes == {}
    with database.connect() as connection:
        last = runs.last_run(connection, "acme")
    assert last is not None
    assert last.status == "done"
    assert state(database).last_reconciled_at is not None


def test_what_a_census_left_out_stays_if_its_source_still_has_it(config: Config, database: Store) -> None:
    source = filled(config, 8)
    source.hidden = {"1", "2"}
    (report,) = reconciled(config, source).reports
    assert (report.gone, report.there) == (0, 2)
    assert report.outcomes == {"unchanged": 2}
    assert live(database) == source.items.keys()


def test_what_nothing_is_said_of_stays(config: Config, database: Store) -> None:
    source = filled(config, 8)
    source.delete("1")
    source.unanswered = {"1"}
    (report,) = reconciled(config, source).reports
    assert (report.gone, report.there, report.unanswered) == (0, 0, 1)
    assert "1" in live(database)


@pytest.mark.parametrize("force", [False, True])
def test_a_part_out_of_sight_stays_and_is_named_and_the_rest_is_reconciled(
    force: bool, config: Config, database: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipelines.reconcile, "LOOKED_AT_ONCE", 2)
    source = filled(config, 12)
    for number in ("1", "2", "3", "4", "5"):
        source.delete(number)
    source.out_of_sight = {"1", "3"}
    summary = reconciled(config, source, force=force)
    (report,) = summary.reports
    assert not summary.ok
    assert report.refused == "source 'tickets': project MILL is out of sight"
    assert (report.gone, report.there, report.unanswered) == (3, 0, 2)
    assert live(database) == source.items.keys() | {"1", "3"}
    assert state(database).reconcile_error == report.refused


def test_an_incomplete_census_deletes_nothing(config: Config, database: Store) -> None:
    source = filled(config, 8)
    source.delete("1")
    source.census_error = AccessRefused("source 'tickets': page 2 was refused")
    summary = reconciled(config, source)
    assert not summary.ok
    assert summary.reports[0].error == "source 'tickets': page 2 was refused"
    assert summary.reports[0].difference is None
    assert len(live(database)) == 8
    assert state(database).reconcile_error == "source 'tickets': page 2 was refused"
    assert state(database).last_reconciled_at is None


def test_too_many_deletions_are_refused_with_the_numbers_and_forced_by_a_person(
    config: Config, database: Store
) -> None:
    source = filled(config, 40)
    for number in range(11):
        source.delete(str(number))
    source.put("new", "stored all the same")
    summary = reconciled(config, source)
    (report,) = summary.reports
    assert not summary.ok
    assert "11 of 40 documents (27.5%) are missing" in report.refused
    assert "(10.0%)" in report.refused
    assert report.error == ""
    assert report.outcomes == {"new": 1}
    assert len(live(database)) == 41
    assert state(database).reconcile_error == report.refused

    assert reconciled(config, source, force=True).reports[0].outcomes == {"deleted": 11}
    assert live(database) == source.items.keys()
    assert state(database).reconcile_error is None


def test_ten_documents_may_always_go(config: Config, database: Store) -> None:
    source = filled(config, 12)
    for number in range(10):
        source.delete(str(number))
    assert reconciled(config, source).reports[0].outcomes == {"deleted": 10}


def test_a_source_that_lists_nothing_is_not_believed(config: Config, database: Store) -> None:
    source = filled(config, 2)
    source.items.clear()
    assert "2 of 2 documents" in reconciled(config, source).reports[0].refused
    assert len(live(database)) == 2


def test_a_dry_run_compares_and_changes_nothing(config: Config, database: Store) -> None:
    source = filled(config, 4)
    source.delete("1")
    summary = reconciled(config, source, dry_run=True)
    assert summary.run_id is None
    assert summary.reports[0].difference is not None
    assert summary.reports[0].difference.missing_in_source == 1
    assert (source.looked_at, len(live(database))) == ([], 4)


@pytest.mark.parametrize("steps", range(6))
def test_a_reconciliation_cut_off_anywhere_is_finished_by_the_next(
    steps: int, config: Config, database: Store
) -> None:
    source = filled(config, 8)
    for native_id in ("0", "1", "2", "3"):
        source.delete(native_id)
    source.fails_in = steps
    reconciled(config, source)
    assert source.items.keys() <= live(database)
    reconciled(config, source)
    assert live(database) == source.items.keys()


def test_one_source_that_fails_does_not_stop_the_others(config: Config, database: Store) -> None:
    sources = [MemorySource(name) for name in ("broken", "tickets")]
    config = config.model_copy(update={"sources": tuple(configured(one.name) for one in sources)})
    for source in sources:
        source.put("1", "gate")
    sources[0].fails_in = 0
    first, second = reconciled(config, *sources).reports
    assert first.error == "source 'broken' did not answer"
    assert second.outcomes == {"new": 1}


def test_only_the_named_source_is_reconciled(config: Config, database: Store) -> None:
    source = filled(config, 2)
    config = config.model_copy(update={"sources": (*config.sources, configured("other"))})
    (report,) = reconciled(config, source, name="tickets").reports
    assert report.source == "tickets"
    with pytest.raises(UnknownName, match="expected one of tickets, other"):
        reconciled(config, source, name="nobody")


def test_an_export_is_skipped_and_says_why(make_config: MakeConfig, tmp_path: object) -> None:
    config = make_config().model_copy(update={"sources": (configured(),)})
    with run_progress(Console(quiet=True), visible=False) as bar:
        (report,) = reconcile_sources(config, bar).reports
    assert report.not_asked.startswith("export files")


def test_another_writer_of_the_client_is_refused(
    config: Config, database: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "LOCK_WAIT", "50ms")
    with (
        database.connect() as connection,
        runs.only_writer(connection, "acme"),
        pytest.raises(SetupError, match="another run of client 'acme'"),
    ):
        reconciled(config, MemorySource())


def test_deleted_documents_come_back_when_their_source_has_them_again(
    config: Config, database: Store
) -> None:
    source = filled(config, 3)
    as_it_was = source.items["1"]
    source.delete("1")
    reconciled(config, source)
    assert "1" not in live(database)
    source.put("2", "time goes on")
    source.items["1"] = as_it_was
    assert reconciled(config, source).reports[0].there == 1
    assert "1" in live(database)
