"""What the README shows is true: its files load, its commands exist, its listener runs, its messages are said."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
import typer
from psycopg import Connection
from typer.main import get_command

from runners import cli
from schemas.config import load_config
from schemas.outcomes import Outcome
from schemas.sources import SOURCE_TYPES
from tests.conftest import ROOT
from transforms.notify import CHANNEL, Change, announce, payload
from transforms.postgres import Store

README = (ROOT / "README.md").read_text(encoding="utf-8")
SHIPPED = ("schemas", "extractors", "transforms", "pipelines", "runners")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def _section(title: str) -> str:
    return README.partition(f"# {title}\n")[2].partition("\n#")[0]


def _first_cells(title: str) -> list[str]:
    """What stands as code in the first column of the last table of a section."""
    rows = re.findall(r"^\| (`.*?) \| ", _section(title), re.MULTILINE)
    return [code.strip("` ") for row in rows for code in re.findall(r"``.+?``|`[^`]+`", row)]


@pytest.mark.parametrize("text", _blocks("toml"))
def test_every_configuration_of_the_readme_is_loaded(text: str, tmp_path: Path) -> None:
    path = tmp_path / "headrace.toml"
    path.write_text(text, encoding="utf-8")
    load_config(path)


@pytest.mark.parametrize("text", _blocks("toml"))
def test_what_is_commented_out_may_be_put_in(text: str, tmp_path: Path) -> None:
    path = tmp_path / "headrace.toml"
    settings = re.sub(r"^# (?=\w+ = )", "", text, flags=re.MULTILINE)
    path.write_text(settings.replace('kind = "postgres"', 'kind = "redis"'), encoding="utf-8")
    load_config(path)


@pytest.mark.parametrize("text", _blocks("sql"))
def test_every_query_of_the_readme_is_answered(text: str, connection: Connection) -> None:
    queries = [query for query in text.split(";") if query.strip()]
    assert queries
    for query in queries:
        assert connection.execute(query.encode()).fetchall() == []


def test_the_readme_shows_every_kind_of_source() -> None:
    assert {kind for kind in SOURCE_TYPES if f'type = "{kind}"' in README} == set(SOURCE_TYPES)


def _shown_commands() -> list[str]:
    lines = [line.removeprefix("$ ") for block in _blocks("console") for line in block.splitlines()]
    lines += re.findall(r"ExecStart=\S*/(headrace .*)", README) + re.findall(r"`(headrace [^`]+)`", README)
    return sorted({line.partition(" #")[0].strip() for line in lines if line.startswith("headrace ")})


@pytest.mark.parametrize("line", _shown_commands())
def test_every_command_of_the_readme_exists_with_its_options(line: str) -> None:
    command = get_command(cli.app)
    words = shlex.split(line)[1:]
    while isinstance(command, typer.core.TyperGroup) and words and words[0] != "COMMAND":
        command = command.commands[words.pop(0)]
    known = {"--help"}.union(*(parameter.opts for parameter in command.params))
    assert {word for word in words if word.startswith("-")} <= known


def test_every_file_that_the_readme_names_is_there() -> None:
    names = re.findall(r"`((?:tests|benchmarks|extractors|runners)/[\w/.-]+)`", README)
    names += re.findall(r"\]\(([\w./-]+)\)", README)
    assert names
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_every_message_of_the_readme_is_said_by_the_code() -> None:
    code = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in SHIPPED
        for path in sorted((ROOT / folder).rglob("*.py"))
    )
    said = re.sub(r'"\s+f?"', "", code)  # literals that stand one after the other
    messages = _first_cells("When it is refused")
    assert len(messages) > 10
    assert [message for message in messages if message not in said] == []


def test_the_fields_of_a_change_are_those_that_are_sent() -> None:
    message = payload([Change("acme", "jira", uuid4(), Outcome.NEW)], "space", uuid4(), 1)
    assert _first_cells("Changes, told to other programs") == list(json.loads(message))


def test_the_listener_hears_of_a_change(database: Store, tmp_path: Path) -> None:
    [text] = _blocks("python")
    path = tmp_path / "listener.py"
    path.write_text(text, encoding="utf-8")
    environment = {**os.environ, "HEADRACE_DSN": database.dsn}
    with (
        subprocess.Popen(
            [sys.executable, path], env=environment, stdout=subprocess.PIPE, text=True
        ) as listener,
        database.connect() as connection,
    ):
        assert listener.stdout is not None
        try:
            assert listener.stdout.readline() == "0 documents now\n"
            _store_one(connection)
            assert [listener.stdout.readline() for _ in range(2)] == [
                "jira 1 0 0\n",
                "  MILL-1 The gate jams\n",
            ]
        finally:
            listener.kill()


def _store_one(connection: Connection) -> None:
    document_id = uuid4()
    with connection.transaction():
        connection.execute(
            "INSERT INTO documents (document_id, client, source, kind, native_id, updated_at, observed_at,"
            " payload_digest, key, title)"
            " VALUES (%s, 'acme', 'jira', 'issue', '1', now(), now(), '', 'MILL-1', 'The gate jams')",
            [document_id],
        )
        announce(connection, [Change("acme", "jira", document_id, Outcome.NEW)], None, None)


def test_the_channel_is_the_one_that_is_named() -> None:
    assert f"`{CHANNEL}`" in _section("Changes, told to other programs")
