"""Whatever happens to a source, and wherever a sync is cut off: afterwards the index holds what the source holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from benchmarks.stand_in import no_model
from pipelines.verify import verify
from runners import slices
from runners.progress_bar import run_progress
from runners.reconcile import reconcile_sources
from runners.run import run
from schemas.config import Config, Slices
from schemas.errors import PipelineError, SinkUnavailable
from tests.runners.memory_source import MemorySource, building, configured
from transforms import runs
from transforms.postgres import Store

Crash = Literal["pipeline", "before commit", "after commit"]
IDS = [str(number) for number in range(7)]


@dataclass(frozen=True)
class Happens:
    """Something at the source; an edit of what is not there creates it."""

    what: Literal["put", "change_silently", "delete"]
    native_id: str


@dataclass(frozen=True)
class Sync:
    """A poll or a reconciliation.

    Args:
        listing: how pages come.
        hidden: what listing and census leave out, though it is there.
        fails_in: steps of the source until it fails.
        store_fails: where storing the first slice breaks off.
    """

    what: Literal["poll", "sweep", "reconcile"]
    listing: Literal["plain", "twice", "backwards"] = "plain"
    hidden: frozenset[str] = frozenset()
    fails_in: int | None = None
    store_fails: Crash | None = None


happenings = st.builds(
    Happens, st.sampled_from(["put", "put", "change_silently", "delete"]), st.sampled_from(IDS)
)
syncs = st.builds(
    Sync,
    st.sampled_from(["poll", "poll", "sweep", "reconcile"]),
    st.sampled_from(["plain", "twice", "backwards"]),
    st.frozensets(st.sampled_from(IDS), max_size=3),
    st.sampled_from([None, None, None, 0, 1, 2, 3, 4]),
    st.sampled_from([None, None, None, "pipeline", "before commit", "after commit"]),
)
histories = st.lists(st.tuples(st.lists(happenings, min_size=3, max_size=8), syncs), min_size=2, max_size=4)


TWO_EDITS = [Happens("put", "0"), Happens("put", "1")]


@contextmanager
def breaking_off(where: Crash | None) -> Iterator[None]:
    """A crash instead of the first pipeline, or before or after the first commit of a cursor or of counts."""
    to_come = [where] if where else []

    def around(step: Callable[..., Any], before: Crash, after: Crash | None = None) -> Callable[..., Any]:
        def crash(*given: Any) -> Any:
            if to_come == [before]:
                raise SinkUnavailable(to_come.pop())
            done = step(*given)
            if after is not None and to_come == [after]:
                raise SinkUnavailable(to_come.pop())
            return done

        return crash

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slices, "run_bounded", around(slices.run_bounded, "pipeline"))
        for name in ("commit_slice", "add_counts"):
            patch.setattr(runs, name, around(getattr(runs, name), "before commit", "after commit"))
        yield


def sync(config: Config, source: MemorySource, how: Sync, force: bool = False) -> None:
    source.listing, source.hidden, source.fails_in = how.listing, set(how.hidden), how.fails_in
    source.sweep = how.what == "sweep"
    with run_progress(Console(quiet=True), visible=False) as bar, breaking_off(how.store_fails):
        if how.what == "reconcile":
            reconcile_sources(config, bar, force=force, build=building(source))
        else:
            with suppress(PipelineError):
                run(config, bar, build=building(source))


def stored(database: Store) -> Mapping[str, str]:
    with database.connect() as connection:
        rows = connection.execute(
            "SELECT native_id, title FROM documents WHERE deleted_at IS NULL"
        ).fetchall()
    return dict(rows)


def deleted(database: Store) -> set[str]:
    with database.connect() as connection:
        rows = connection.execute("SELECT native_id FROM documents WHERE deleted_at IS NOT NULL").fetchall()
    return {native_id for (native_id,) in rows}


@pytest.fixture
def config(make_config: Callable[..., Config]) -> Config:
    """Slices of five documents, so that a sync may have several commits."""
    return make_config().model_copy(
        update={"sources": (configured(),), "slices": Slices(max_documents=5, max_payload_mib=1)}
    )


@pytest.mark.slow
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(histories)
@example([(TWO_EDITS, Sync("poll")), (TWO_EDITS, Sync("poll", store_fails="pipeline"))])
@example([([Happens("put", "0")], Sync("poll")), ([], Sync("reconcile", hidden=frozenset("0")))])
def test_what_the_source_holds_is_in_the_store_after_a_poll_and_a_reconciliation(
    config: Config, database: Store, history: list[tuple[list[Happens], Sync]]
) -> None:
    with database.connect() as connection:
        connection.execute("TRUNCATE documents, source_cursors, source_states, dead_letters CASCADE")
    source = MemorySource(page_records=2)
    source.put("always there", "an empty index cannot be verified")
    ever_deleted: set[str] = set()
    needs_sweep: set[str] = set()
    version = 0
    with no_model():
        for happened, how in history:
            for one in happened:
                version += 1
                title = f"gate {one.native_id} version {version}"
                if one.what == "delete" and one.native_id in source.items:
                    source.delete(one.native_id)
                    ever_deleted.add(one.native_id)
                elif one.what == "change_silently" and one.native_id in source.items:
                    source.change_silently(one.native_id, title)
                    needs_sweep.add(one.native_id)
                elif one.what == "put":
                    source.put(one.native_id, title)
            needs_sweep |= how.hidden
            sync(config, source, how)
            assert deleted(database) <= ever_deleted
        sync(config, source, Sync("poll"))
        sync(config, source, Sync("reconcile"), force=True)
        held, holds = stored(database), {native_id: item.title for native_id, item in source.items.items()}
        assert held.keys() == holds.keys()
        assert {one for one in holds if held[one] != holds[one]} <= needs_sweep
        sync(config, source, Sync("sweep"))
    assert stored(database) == holds
    assert verify(config, "acme").ok
