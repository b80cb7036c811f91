"""A configuration for each test, on a database of its own, and the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runners import cli
from schemas.config import Config, Model, Postgres, Slices
from schemas.sources import ExportSource
from tests.runners.world import DSN, Headrace
from transforms.postgres import Store


@pytest.fixture
def make_config(database: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Config]:
    """Makes a configuration that reads files into this test's database."""
    monkeypatch.setenv(DSN, database.dsn)

    def make(*paths: Path, max_documents: int = 4000, max_buffer_tokens: int = 32_768) -> Config:
        return Config(
            client="acme",
            data_dir=tmp_path / "data",
            postgres=Postgres(dsn=f"env:{DSN}"),
            model=Model(max_buffer_tokens=max_buffer_tokens),
            slices=Slices(max_documents=max_documents),
            sources=(ExportSource(type="export", name="tickets", paths=tuple(map(str, paths))),)
            if paths
            else (),
        )

    return make


@pytest.fixture
def headrace(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Headrace:
    """Runs a command line in this process; gives exit code, stdout and stderr."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["headrace", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.fixture
def write_config(tmp_path: Path, database: Store, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Writes a configuration on this test's database, with more TOML after it."""
    monkeypatch.setenv(DSN, database.dsn)

    def write(more: str = "") -> Path:
        path = tmp_path / "headrace.toml"
        path.write_text(f'client = "acme"\npostgres.dsn = "env:{DSN}"\n{more}', encoding="utf-8")
        return path

    return write
