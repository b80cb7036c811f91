"""One run of a client at a time; a slice counts only once its cursor is kept."""

from __future__ import annotations

from uuid import uuid4

import psycopg
import pytest

from schemas.errors import SetupError
from transforms import runs
from transforms.postgres import Store

SPACE_ID = "0" * 16


def test_a_run_ends_as_it_went(connection: psycopg.Connection) -> None:
    with runs.started(connection, "acme", SPACE_ID) as run_id:
        assert runs.last_run(connection, "acme").status == "running"  # type: ignore[union-attr]
    done = runs.last_run(connection, "acme")
    assert done is not None
    assert (done.run_id, done.status, done.error) == (run_id, "done", None)
    assert done.ended_at is not None


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (SetupError("a setting is wrong"), "failed", "SetupError: a setting is wrong"),
        (KeyboardInterrupt(), "interrupted", None),
    ],
)
def test_a_run_that_breaks_says_why(
    connection: psycopg.Connection, error: BaseException, status: str, said: str | None
) -> None:
    with pytest.raises(type(error)), runs.started(connection, "acme", SPACE_ID):
        raise error
    ended = runs.last_run(connection, "acme")
    assert ended is not None
    assert (ended.status, ended.error) == (status, said)


def test_a_second_run_of_a_client_is_refused_and_another_client_may_run(
    database: Store, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "LOCK_WAIT", "50ms")
    with runs.started(connection, "acme", SPACE_ID), database.connect() as other:
        with (
            pytest.raises(SetupError, match="another run of client 'acme'"),
            runs.started(other, "acme", SPACE_ID),
        ):
            pass
        with runs.started(other, "other", SPACE_ID):
            pass
    with runs.started(connection, "acme", SPACE_ID):
        pass


def test_a_run_whose_process_died_is_marked_interrupted(
    database: Store, connection: psycopg.Connection
) -> None:
    dead = database.connect()
    run = runs.started(dead, "acme", SPACE_ID)
    run.__enter__()
    assert runs.mark_interrupted(connection) == 0
    connection.execute("SELECT pg_terminate_backend(%s, 5000)", [dead.info.backend_pid])
    dead.close()
    assert runs.mark_interrupted(connection) == 1
    assert runs.last_run(connection, "acme").status == "interrupted"  # type: ignore[union-attr]


def test_a_new_run_marks_the_one_that_died(database: Store, connection: psycopg.Connection) -> None:
    dead = database.connect()
    run = runs.started(dead, "acme", SPACE_ID)
    first = run.__enter__()
    dead.close()
    with runs.started(connection, "acme", SPACE_ID):
        pass
    assert connection.execute("SELECT status FROM runs WHERE run_id = %s", [first]).fetchone() == (
        "interrupted",
    )


def test_slices_add_up_and_their_cursor_is_found_again(connection: psycopg.Connection) -> None:
    with runs.started(connection, "acme", SPACE_ID) as run_id:
        for cursor, counts in (({"line": 10}, {"new": 7, "skipped:event": 3}), ({"line": 15}, {"new": 5})):
            runs.commit_slice(connection, run_id, "acme", "jira", SPACE_ID, b"p", cursor, counts)
    assert runs.counts_of_run(connection, run_id) == {"jira": {"new": 12, "skipped:event": 3}}
    assert runs.load_cursor(connection, "acme", "jira", SPACE_ID, b"p") == {"line": 15}


def test_other_processing_another_space_or_the_end_of_a_source_begin_anew(
    connection: psycopg.Connection,
) -> None:
    with runs.started(connection, "acme", SPACE_ID) as run_id:
        runs.commit_slice(connection, run_id, "acme", "jira", SPACE_ID, b"p", {"line": 10}, {})
        assert runs.load_cursor(connection, "acme", "jira", SPACE_ID, b"q") is None
        assert runs.load_cursor(connection, "acme", "jira", "1" * 16, b"p") is None
        runs.commit_slice(connection, run_id, "acme", "jira", SPACE_ID, b"p", None, {})
    assert runs.load_cursor(connection, "acme", "jira", SPACE_ID, b"p") is None


def test_a_slice_that_cannot_be_counted_keeps_no_cursor(connection: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        runs.commit_slice(connection, uuid4(), "acme", "jira", SPACE_ID, b"p", {"line": 10}, {"new": 1})
    assert runs.load_cursor(connection, "acme", "jira", SPACE_ID, b"p") is None


def test_the_next_row_id_is_never_above_the_one_given_out(connection: psycopg.Connection) -> None:
    for _ in range(2):
        expected = runs.next_row_id(connection)
        assert connection.execute("SELECT nextval('chunk_row_ids')").fetchone() == (expected,)


def test_totals_count_what_lives_and_what_is_gone(connection: psycopg.Connection) -> None:
    connection.execute(
        "INSERT INTO documents (document_id, client, source, kind, native_id, updated_at, observed_at,"
        " payload_digest, deleted_at) SELECT gen_random_uuid(), 'acme', 'jira', 'issue', n::text, now(), now(), '',"
        " CASE WHEN n = 1 THEN now() END FROM generate_series(1, 3) AS n"
    )
    (row,) = runs.totals(connection, "acme", SPACE_ID)
    assert (row.source, row.kind, row.documents, row.deleted) == ("jira", "issue", 2, 1)
