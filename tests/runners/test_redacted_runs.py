"""What is redacted is nowhere in the store, and only what a policy touches is worked on again."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.parquet as pq
import pytest
from psycopg import sql
from rich.console import Console

from pipelines.report import read_status
from pipelines.search import search
from runners import display
from runners.progress_bar import run_progress
from runners.retry import retry_dead_letters
from schemas.config import Config, Model, Privacy
from schemas.errors import EngineFailed
from tests.runners.world import Headrace, issue, rows_of, run_quietly, write_export
from tests.transforms.test_redaction import POSITIVES
from transforms.embedders.loading import load_engine
from transforms.postgres import Store
from transforms.redaction import redact_text

MakeConfig = Callable[..., Config]
EMAIL = "grace.hopper@navy.example"
ALWAYS = Privacy(redact="always")


def leaky(number: int, text: str) -> dict[str, Any]:
    """An issue with `text` in its summary, description, a comment, a label and its reporter's name."""
    made = issue(number)
    fields = made["fields"]
    fields["summary"] += f" {text.splitlines()[0]}"
    fields["description"] += f"\n\n{{noformat}}\n{text}\n{{noformat}}\n"
    fields["comment"]["comments"][0]["body"] = f"seen here: {EMAIL}"
    fields["labels"] = [EMAIL]
    fields["reporter"] = {"displayName": EMAIL}
    return made


def everything_stored(connection: psycopg.Connection) -> str:
    """All rows of all tables, as text; bytes as their text, too."""
    tables = connection.execute(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' AND table_type = 'BASE TABLE'"
    ).fetchall()
    rows = [
        str(row)
        for (table,) in tables
        for row in connection.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(table)))
    ]
    assert rows
    return "\n".join(rows)


def values() -> list[str]:
    """Values of the labelled set, as long as they can be told from anything else."""
    found = [value for item in POSITIVES for value in item.values]
    return [value for value in found if len(value) > 8 and value not in redact_text(value)[0]]


def test_no_value_of_the_labelled_set_is_left_in_any_table(
    make_config: MakeConfig, database: Store, tmp_path: Path
) -> None:
    issues = [leaky(number, item.text) for number, item in enumerate(POSITIVES)]
    bad = {"id": "7", "key": "MILL-7", "fields": {"summary": [EMAIL], "updated": "never"}}
    path = write_export(tmp_path / "jira.jsonl", [*issues, bad])
    path.write_bytes(path.read_bytes() + f'{{"id": 8, "torn": "{EMAIL}\n'.encode())
    config = make_config(path).model_copy(update={"privacy": ALWAYS})
    summary = run_quietly(config)
    with database.connect() as connection:
        stored = everything_stored(connection)
        redactions = read_status(config, config.client)["redactions"]
    assert [value for value in [EMAIL, *values()] if value in stored] == []
    assert "[EMAIL]" in stored
    assert redactions["EMAIL"] > len(POSITIVES)
    assert summary.redacted == display.summary_as_dict(summary)["redacted"] == redactions
    assert len(redactions) == len({one.kind for item in POSITIVES for one in item.wanted})


def test_no_value_is_left_in_a_file_in_the_log_or_on_the_screen(
    write_config: Callable[[str], Path],
    headrace: Headrace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    spools = tmp_path / "spools"
    spools.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spools))
    source = write_export(tmp_path / "jira.jsonl", [leaky(n, f"ask {EMAIL}") for n in range(3)])
    source.write_bytes(source.read_bytes() + f'{{"id": 8, "torn": "{EMAIL}\n'.encode())
    config = write_config(
        '[privacy]\nredact = "always"\n[[sources]]\ntype = "export"\nname = "tickets"\npaths = ["jira.jsonl"]\n'
    )
    commands: list[tuple[str | Path, ...]] = [
        ("run",),
        ("search", "gate ask", "--index", "faiss", "--json"),
        ("search", "gate ask", "--mode", "text"),
        ("export", tmp_path / "all.parquet"),
        ("dead-letters", "list"),
        ("status", "--json"),
    ]
    said = "".join(str(headrace(*command, "-c", config)) for command in commands)
    assert "[EMAIL]" in said
    assert EMAIL not in said + caplog.text
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path not in (source, config)]
    assert {".parquet", ".faiss"} <= {path.suffix for path in files}
    assert [path for path in files if EMAIL.encode() in path.read_bytes()] == []
    assert EMAIL not in str(pq.read_table(tmp_path / "all.parquet").to_pylist())
    assert list(spools.iterdir()) == []


def test_a_policy_that_redacts_embeds_again_only_texts_that_hold_something(
    make_config: MakeConfig, database: Store, tmp_path: Path
) -> None:
    issues = [issue(1), issue(2), leaky(3, f"ask {EMAIL}")]
    config = make_config(write_export(tmp_path / "jira.jsonl", issues))
    run_quietly(config)
    before = {row[:5] for row in rows_of(database, config)["chunks"]}
    summary = run_quietly(config.model_copy(update={"privacy": ALWAYS}))
    after = {row[:5] for row in rows_of(database, config)["chunks"]}
    changed = {row[0] for row in before ^ after}
    assert summary.totals["changed"] == 3
    assert len(changed) == 1
    assert summary.usage.reused == sum(row[0] not in changed for row in after)


def test_where_the_engine_is_local_external_only_is_as_good_as_off(
    make_config: MakeConfig, database: Store, tmp_path: Path
) -> None:
    config = make_config(write_export(tmp_path / "jira.jsonl", [leaky(1, f"ask {EMAIL}")]))
    assert config.privacy.redact == "external_only"
    run_quietly(config.model_copy(update={"privacy": Privacy(redact="off")}))
    summary = run_quietly(config)
    assert summary.totals["unchanged"] == 1
    with database.connect() as connection:
        assert EMAIL in everything_stored(connection)


def test_only_always_redacts_dead_letters_as_only_it_is_about_the_store(
    make_config: MakeConfig, database: Store, tmp_path: Path
) -> None:
    path = write_export(tmp_path / "jira.jsonl", [issue(1)])
    path.write_bytes(path.read_bytes() + f'{{"id": 8, "torn": "{EMAIL}\n'.encode())
    config = make_config(path)
    for redact, is_left in (("off", True), ("external_only", True), ("always", False)):
        privacy = Privacy.model_validate({"redact": redact})
        run_quietly(config.model_copy(update={"privacy": privacy}))
        with database.connect() as connection:
            (payload,) = connection.execute("SELECT payload FROM dead_letters").fetchone() or (b"",)
        assert (EMAIL.encode() in payload) == is_left, redact


def test_a_client_may_differ() -> None:
    privacy = Privacy(redact="off", clients={"acme": "always", "weir": "external_only"})
    elsewhere = Model(integration="gateway", name="acme/embed", dimensions=16, max_tokens=64)
    assert [privacy.redacts(client, Model()) for client in ("acme", "weir", "other")] == [True, False, False]
    assert [privacy.redacts(client, elsewhere) for client in ("acme", "weir", "other")] == [True, True, False]


def test_a_redacted_dead_letter_can_be_tried_again(
    make_config: MakeConfig, database: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_export(tmp_path / "jira.jsonl", [leaky(5, f"ask {EMAIL}")])
    config = make_config(path).model_copy(update={"privacy": ALWAYS})

    def fail(engine: object, batch: object) -> None:
        raise EngineFailed("out of order")

    with monkeypatch.context() as broken:
        broken.setattr(type(load_engine(config.model)), "run", fail)
        assert run_quietly(config).totals == {"dead_lettered": 1}
    with database.connect() as connection:
        (payload,) = connection.execute("SELECT payload FROM dead_letters").fetchone() or (b"",)
    assert EMAIL.encode() not in payload
    assert b"[EMAIL]" in payload
    with run_progress(Console(quiet=True), visible=False) as bar:
        assert retry_dead_letters(config, bar, config.client, None) == {"new": 1}


def test_the_model_sees_a_redacted_query(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def embed(connection: object, model: object, query: str, client: str) -> None:
        seen.append(query)

    monkeypatch.setattr("pipelines.search.embed_query", embed)
    config = make_config(write_export(tmp_path / "jira.jsonl", [issue(1)]))
    run_quietly(config)
    for privacy in (Privacy(redact="off"), ALWAYS):
        search(config.model_copy(update={"privacy": privacy}), f"mail of {EMAIL}", client=config.client)
    assert seen == [f"mail of {EMAIL}", "mail of [EMAIL]"]
