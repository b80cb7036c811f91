"""A configuration for each test, on a database of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.config import Config, Model, Postgres, Slices
from schemas.sources import ExportSource
from tests.runners.world import DSN
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
