"""A role that reads one client searches it, exports it and sees its costs, and is told that there is no other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pyarrow.parquet as pq
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.runners.world import DSN, Headrace, issue, write_export
from transforms.postgres import Store

ROLE = "headrace_acme_reader"
TOML = """
[[sources]]
type = "export"
name = "tickets"
paths = ["acme.jsonl"]

[[sources]]
type = "export"
name = "foreign"
client = "globex"
paths = ["globex.jsonl"]
"""


@pytest.fixture
def shared_index(
    write_config: Callable[[str], Path], tmp_path: Path, database: Store, headrace: Headrace
) -> Iterator[Path]:
    """One index of two clients, and a role that reads the first; the configuration."""
    write_export(tmp_path / "acme.jsonl", map(issue, range(3)))
    write_export(tmp_path / "globex.jsonl", [issue(n, comments=0) for n in range(100, 104)])
    config = write_config(TOML)
    assert headrace("run", "-c", config)[0] == 0
    code, out, _ = headrace("readers", "grant", ROLE, "--client", "acme", "-c", config)
    assert (code, out) == (0, f"role {ROLE} (made now; it has no password yet) reads client acme\n")
    yield config
    with database.connect() as connection:
        connection.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(ROLE)))
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(ROLE)))


@pytest.fixture
def as_reader(shared_index: Path, database: Store, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(DSN, make_conninfo(database.dsn, user=ROLE))
    return shared_index


def test_a_search_finds_its_own_clients_documents_as_the_owner_would(
    shared_index: Path, headrace: Headrace, database: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways = [(mode, index) for mode in ("vector", "text", "hybrid") for index in ("pgvector", "faiss")]

    def answers(client: str) -> list[tuple[int, set[str], str]]:
        ask = ("search", "gate restart", "-c", shared_index, "--client", client, "--json")
        given = [headrace(*ask, "--mode", mode, "--index", index) for mode, index in ways]
        return [(code, {hit["key"] for hit in json.loads(out or "[]")}, err) for code, out, err in given]

    owners = answers("acme")
    assert all(code == 0 and keys and keys <= {"MILL-0", "MILL-1", "MILL-2"} for code, keys, _ in owners)
    monkeypatch.setenv(DSN, make_conninfo(database.dsn, user=ROLE))
    assert answers("acme") == owners
    for code, keys, err in answers("globex"):
        assert (code, keys) == (1, set())
        assert "client 'globex' has no index" in err


def test_an_export_holds_its_own_client_alone(as_reader: Path, headrace: Headrace, tmp_path: Path) -> None:
    assert headrace("export", tmp_path / "mine.parquet", "-c", as_reader)[0] == 0
    keys = pq.read_table(tmp_path / "mine.parquet").column("key").to_pylist()
    assert set(keys) == {"MILL-0", "MILL-1", "MILL-2"}
    code, _, err = headrace("export", tmp_path / "theirs.parquet", "-c", as_reader, "--client", "globex")
    assert (code, "client 'globex' has no index" in err) == (1, True)
    assert not (tmp_path / "theirs.parquet").exists()


def test_costs_are_its_own_clients_and_its_searches_are_among_them(
    as_reader: Path, headrace: Headrace
) -> None:
    assert headrace("search", "gate", "-c", as_reader)[0] == 0
    code, out, _ = headrace("usage", "-c", as_reader, "--by", "client,operation", "--json")
    groups = [(row["client"], row["operation"]) for row in json.loads(out)["rows"]]
    assert (code, groups) == (0, [("acme", "embed_documents"), ("acme", "embed_query")])
    assert json.loads(headrace("usage", "-c", as_reader, "--client", "globex", "--json")[1])["rows"] == []


@pytest.mark.parametrize(
    "command",
    [
        ("run",),
        ("status",),
        ("readers", "grant", ROLE, "--client", "globex"),
    ],
)
def test_what_is_the_owners_is_refused_in_one_line(
    command: tuple[str, ...], as_reader: Path, headrace: Headrace
) -> None:
    code, _, err = headrace(*command, "-c", as_reader)
    assert (code, err.count("\n")) == (1, 1)
    assert "permission denied" in err or "'globex' has no index" in err or "not the owner" in err


def test_a_run_goes_on_after_a_grant_and_readers_are_listed(
    shared_index: Path, headrace: Headrace, tmp_path: Path
) -> None:
    write_export(tmp_path / "acme.jsonl", map(issue, range(5)))
    code, out, _ = headrace("run", "-c", shared_index, "--json")
    assert (code, json.loads(out)["total"]["new"]) == (0, 2)
    (reader,) = json.loads(headrace("readers", "list", "-c", shared_index, "--json")[1])
    assert (reader["role"], reader["client"]) == (ROLE, "acme")
    assert headrace("readers", "revoke", ROLE, "--client", "acme", "-c", shared_index)[0] == 0
    assert "No role reads any client." in headrace("readers", "list", "-c", shared_index)[1]


def test_roles_of_the_embedded_server_are_refused(headrace: Headrace, tmp_path: Path) -> None:
    config = tmp_path / "embedded.toml"
    config.write_text('client = "acme"\n', encoding="utf-8")
    code, _, err = headrace("readers", "grant", ROLE, "--client", "acme", "-c", config)
    assert (code, "set postgres.dsn" in err) == (1, True)
    assert not (tmp_path / ".headrace").exists()


def test_the_view_of_days_in_front_of_the_materialised_one_is_a_clients_own(
    as_reader: Path, database: Store
) -> None:
    with psycopg.connect(make_conninfo(database.dsn, user=ROLE)) as reader:
        assert reader.execute("SELECT DISTINCT client FROM client_usage_daily").fetchall() == [("acme",)]
