"""Whatever happens to a source, and wherever a sync is cut off: afterwards the index holds what the source holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from benchmarks.stand_in import no_model
from pipelines.verify import verify
from runners import slices
from runners.progress_bar import run_progress
from runners.reconcile import reconcile_sources
from runners.slices import run
from schemas.config import Config, Slices
from schemas.errors import PipelineError, SinkUnavailable
from tests.runners.memory_source import MemorySource, building, configured
from transforms import runs
from transforms.postgres import Store

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
    store_fails: Literal["before", "after"] | None = None


happenings = st.builds(
    Happens, st.sampled_from(["put", "put", "change_silently", "delete"]), st.sampled_from(IDS)
)
syncs = st.builds(
    Sync,
    st.sampled_from(["poll", "poll", "sweep", "reconcile"]),
    st.sampled_from(["plain", "twice", "backwards"]),
    st.frozensets(st.sampled_from(IDS), max_size=3),
    st.none() | st.integers(0, 4),
    st.sampled_from([None, None, "before", "after"]),
)
histories = st.lists(
    st.lists(happenings, max_size=6).flatmap(lambda some: st.tuples(st.just(some), syncs)), max_size=4
)


@contextmanager
def breaking_off(where: Literal["before", "after"] | None) -> Iterator[None]:
    """A crash before or after the first commit of a cursor or of counts."""
    pending = [where] if where else []

    def around(commit: Callable[..., None]) -> Callable[..., None]:
        def crash(*given: Any) -> None:
            at = pending.pop() if pending else None
            if at != "before":
                commit(*given)
            if at is not None:
                raise SinkUnavailable("the machine went away")

        return crash

    with pytest.MonkeyPatch.context() as patch:
        for name in ("commit_slice", "add_counts"):
            patch.setattr(slices.runs, name, around(getattr(runs, name)))
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
    """Slices of four documents, so that a sync has several commits."""
    return make_config().model_copy(
        update={"sources": (configured(),), "slices": Slices(max_documents=4, max_payload_mib=1)}
    )


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(histories)
def test_after_a_poll_and_a_reconciliation_the_store_equals_the_source(
    config: Config, database: Store, history: list[tuple[list[Happens], Sync]]
) -> None:
    with database.connect() as connection:
        connection.execute("TRUNCATE documents, source_cursors, source_states, dead_letters CASCADE")
    source = MemorySource(page_records=2)
    source.put("always there", "an empty index cannot be verified")
    ever_deleted: set[str] = set()
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
                elif one.what == "put":
                    source.put(one.native_id, title)
            sync(config, source, how)
            assert deleted(database) <= ever_deleted
        sync(config, source, Sync("sweep"))
        sync(config, source, Sync("reconcile"), force=True)
    assert stored(database) == {native_id: item.title for native_id, item in source.items.items()}
    assert verify(config, "acme").ok
