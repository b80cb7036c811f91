"""A run may be cut, repeated, shuffled and killed: the rows are the same."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from extractors.base import Page
from runners.retry import retry_dead_letters
from runners.slices import accounted, cut
from schemas.config import Config, Slices
from schemas.documents import Format, Kind, SourceRecord
from schemas.errors import CountsDoNotAddUp, SourceTimeout
from schemas.outcomes import Outcome
from schemas.payloads import parse_time
from tests.runners.world import issue, rows_of, run_quietly, write_export
from transforms.postgres import Store

MakeConfig = Callable[..., Config]


def page(records: int, payload_bytes: int = 10, cursor: int = 0, skipped: int = 0) -> Page:
    at = parse_time("2026-01-01T00:00:00Z")
    assert at
    made = tuple(
        SourceRecord("acme", "s", Format.JIRA_ISSUE, Kind.ISSUE, str(n), b"x" * payload_bytes, at)
        for n in range(records)
    )
    return Page(records=made, skipped={"bot": skipped} if skipped else {}, cursor={"line": cursor})


def test_a_slice_ends_with_the_page_that_reaches_a_limit() -> None:
    pages = [page(3, cursor=n) for n in range(5)]
    slices = list(cut(pages, Slices(max_documents=6)))
    assert [len(piece.pages) for piece in slices] == [2, 2, 1]
    assert [piece.cursor for piece in slices] == [{"line": 1}, {"line": 3}, {"line": 4}]


def test_a_slice_ends_when_its_payloads_weigh_enough() -> None:
    pages = [page(1, payload_bytes=700_000) for _ in range(4)]
    assert [len(piece.pages) for piece in cut(pages, Slices(max_payload_mib=1))] == [2, 2]


def test_a_source_that_gives_nothing_has_no_slice() -> None:
    assert list(cut([], Slices())) == []


def test_what_came_before_a_failure_is_a_slice() -> None:
    def pages() -> Iterator[Page]:
        yield page(3, cursor=1)
        raise SourceTimeout("gave nothing")

    slices = cut(pages(), Slices(max_documents=6))
    assert next(slices).cursor == {"line": 1}
    with pytest.raises(SourceTimeout):
        next(slices)


def test_records_that_are_not_accounted_for_stop_the_run() -> None:
    with pytest.raises(CountsDoNotAddUp, match="5 records were read, 4 accounted for"):
        accounted([page(3, skipped=2)], Counter({Outcome.NEW: 2}))


def test_skipped_records_are_counted_with_their_reason() -> None:
    assert accounted([page(3, skipped=2)], Counter({Outcome.NEW: 3})) == {"new": 3, "skipped:bot": 2}


def test_a_second_run_finds_everything_unchanged_and_calls_no_engine(
    tmp_path: Path, make_config: MakeConfig, database: Store
) -> None:
    config = make_config(write_export(tmp_path / "a.jsonl", map(issue, range(30))))
    first = run_quietly(config)
    rows = rows_of(database, config)
    second = run_quietly(config)
    assert first.totals == {"new": 30}
    assert second.totals == {"unchanged": 30}
    assert (second.usage.calls, second.usage.inputs) == (0, 0)
    assert rows_of(database, config) == rows
    assert len(rows["chunks"]) == first.quality.vectors == first.indexes["acme"].count


def test_rows_do_not_depend_on_order_slices_or_repetition(
    tmp_path: Path, make_config: MakeConfig, database: Store
) -> None:
    versions = [issue(n, day, words=400 // day) for n in range(12) for day in (1, 2, 3)]
    config = make_config(write_export(tmp_path / "a.jsonl", versions))
    run_quietly(config)
    expected = rows_of(database, config)
    with database.connect() as connection:
        connection.execute("TRUNCATE documents, source_cursors, dead_letters CASCADE")
    random.Random(7).shuffle(versions)
    shuffled = make_config(
        write_export(tmp_path / "b.jsonl", versions), max_documents=5, max_buffer_tokens=512
    )
    summary = run_quietly(shuffled, ["--direct_runner_bundle_repeat=2"])
    assert rows_of(database, shuffled) == expected
    assert summary.totals.total() == len(versions)


def test_a_shorter_version_removes_its_old_tail_from_postgres_and_faiss(
    tmp_path: Path, make_config: MakeConfig, database: Store
) -> None:
    path = tmp_path / "a.jsonl"
    config = make_config(write_export(path, [issue(1, day=1, words=900)]))
    before = run_quietly(config)
    write_export(path, [issue(1, day=2, words=20)])
    after = run_quietly(config)
    assert before.indexes["acme"].count > 1
    assert (after.totals, after.indexes["acme"].count) == ({"changed": 1}, 1)
    assert [row[1] for row in rows_of(database, config)["chunks"]] == [0]


def test_an_edited_comment_costs_only_the_chunks_that_changed(
    tmp_path: Path, make_config: MakeConfig
) -> None:
    path = tmp_path / "a.jsonl"
    long_issue = issue(1, words=1500)
    config = make_config(write_export(path, [long_issue]))
    first = run_quietly(config)
    long_issue["fields"]["comment"]["comments"][-1]["body"] = "now edited"
    long_issue["fields"]["updated"] = "2026-01-05T10:00:00.000+0000"
    write_export(path, [long_issue])
    second = run_quietly(config)
    assert second.totals == {"changed": 1}
    assert second.usage.inputs <= 2
    assert second.usage.reused >= first.usage.inputs - 2 > 3


def test_another_chunk_size_works_on_every_document_again(tmp_path: Path, make_config: MakeConfig) -> None:
    config = make_config(write_export(tmp_path / "a.jsonl", map(issue, range(5))))
    run_quietly(config)
    other = config.model_copy(update={"chunking": config.chunking.model_copy(update={"max_tokens": 64})})
    assert run_quietly(other).totals == {"changed": 5}
    assert run_quietly(other).totals == {"unchanged": 5}


def test_one_bad_line_becomes_a_dead_letter_and_the_others_are_stored(
    tmp_path: Path, make_config: MakeConfig, database: Store
) -> None:
    path = write_export(tmp_path / "a.jsonl", [issue(1), issue(2)])
    path.write_bytes(path.read_bytes().replace(b"\n", b'\n{"broken": \n', 1))
    config = make_config(path)
    assert run_quietly(config).totals == {"new": 2, "dead_lettered": 1}
    (letter,) = rows_of(database, config)["dead_letters"]
    assert letter[1] == "read"


def test_a_retried_dead_letter_that_now_passes_is_stored_and_resolved(
    tmp_path: Path, make_config: MakeConfig, database: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console

    from runners.progress_bar import run_progress
    from schemas.errors import EngineFailed
    from transforms.embedders.loading import load_engine

    config = make_config(write_export(tmp_path / "a.jsonl", map(issue, range(3))))
    with monkeypatch.context() as broken:

        def fail(engine: object, batch: object) -> None:
            raise EngineFailed("out of order")

        broken.setattr(type(load_engine(config.model)), "run", fail)
        first = run_quietly(config)
    assert first.totals == {"dead_lettered": 3}
    assert first.usage.failed_calls == first.usage.calls > 0
    assert rows_of(database, config)["documents"] == []
    with run_progress(Console(quiet=True), visible=False) as bar:
        counts = retry_dead_letters(config, bar, "acme", None)
        assert counts == {"new": 3}
        assert retry_dead_letters(config, bar, "acme", None) == {}
    with database.connect() as connection:
        open_letters = connection.execute(
            "SELECT count(*) FROM dead_letters WHERE resolved_at IS NULL"
        ).fetchone()
    assert open_letters == (0,)
    assert len(rows_of(database, config)["documents"]) == 3


SOME_ROWS = "SELECT count(*) FROM documents"


@pytest.mark.parametrize("after_documents", [1, 60, 130])
def test_a_run_killed_at_any_moment_is_finished_by_the_next_one(
    after_documents: int, tmp_path: Path, make_config: MakeConfig, database: Store
) -> None:
    issues = [issue(n, words=60) for n in range(160)]
    config = make_config(write_export(tmp_path / "a.jsonl", issues), max_documents=50, max_buffer_tokens=1024)
    (tmp_path / "headrace.toml").write_text(
        f'client = "acme"\ndata_dir = "{config.data_dir}"\n'
        f'postgres.dsn = "{config.postgres.dsn}"\nmodel.max_buffer_tokens = 1024\n'
        'slices.max_documents = 50\n[[sources]]\ntype = "export"\nname = "tickets"\npaths = ["a.jsonl"]\n',
        encoding="utf-8",
    )
    command = [
        sys.executable,
        "-m",
        "runners.cli",
        "run",
        "--config",
        str(tmp_path / "headrace.toml"),
        "--json",
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ.copy()
    )
    with database.connect() as connection:
        deadline = time.monotonic() + 120
        while (connection.execute(SOME_ROWS).fetchone() or (0,))[0] < after_documents:
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        stored_before = (connection.execute(SOME_ROWS).fetchone() or (0,))[0]
    assert stored_before < 160

    resumed = run_quietly(config)
    with database.connect() as connection:
        embedded = connection.execute("SELECT sum(input_count) FROM ai_usage_tracking").fetchone()
        statuses = connection.execute("SELECT status FROM runs ORDER BY started_at").fetchall()
    rows = rows_of(database, config)
    assert embedded
    assert len(rows["chunks"]) <= embedded[0] <= len(rows["chunks"]) + 50 * 2
    assert resumed.totals["new"] <= 160 - stored_before
    assert statuses == [("interrupted",), ("done",)]

    with database.connect() as connection:
        connection.execute("TRUNCATE documents, source_cursors, dead_letters CASCADE")
    run_quietly(config)
    assert rows_of(database, config) == rows
