"""What all tests share: where real payloads may lie, and real parts to run against."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests import network_guard
from transforms import embedded_postgres
from transforms.caches import memory
from transforms.migrate import migrate
from transforms.postgres import Store

ROOT = Path(__file__).resolve().parent.parent
TEST_DSN = "HEADRACE_TEST_DSN"


network_guard.install()


@pytest.fixture(autouse=True)
def _no_connection_elsewhere() -> Iterator[None]:
    """No test can spend anything: one that reaches for another machine fails, whatever became of it."""
    network_guard.attempts.clear()
    yield
    assert network_guard.attempts == [], "reached for another machine"


@pytest.fixture(autouse=True)
def _no_cache_of_another_test() -> None:
    """The cache in memory outlives a run; a test begins without."""
    memory.forget_shared()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real payloads beside the checkout; they are for testing only and not part of the repository."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real payloads are not there: {folder} does not exist")
    return folder


@pytest.fixture(scope="session")
def postgres_dsn() -> Iterator[str]:
    """Connection string of a server where tests make databases: an embedded one, or that of `HEADRACE_TEST_DSN`."""
    if TEST_DSN in os.environ:
        yield os.environ[TEST_DSN]
        return
    folder = Path(tempfile.mkdtemp(prefix="headrace-"))
    dsn = embedded_postgres.start(folder / "postgres")
    with psycopg.connect(dsn, autocommit=True) as connection:
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            connection.execute(f"ALTER SYSTEM SET {setting} = off")
        connection.execute("SELECT pg_reload_conf()")
    yield dsn
    embedded_postgres.stop(folder / "postgres")
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def _template(postgres_dsn: str) -> Iterator[str]:
    name = f"headrace_template_{os.getpid()}"
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    with Store(make_conninfo(postgres_dsn, dbname=name)).connect_plainly() as connection:
        migrate(connection)
    yield name
    _drop(postgres_dsn, name)


def _drop(postgres_dsn: str, name: str) -> None:
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


_numbers = count()


def _copy(postgres_dsn: str, template: str) -> str:
    """Name of a new database; as files, since a copy through the log takes twice as long."""
    name = f"headrace_test_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        as_files = "STRATEGY FILE_COPY" if connection.info.server_version >= 150000 else ""
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} {as_files}")
    return name


@pytest.fixture
def empty_database(postgres_dsn: str) -> Iterator[Store]:
    """A database of this test alone, without tables."""
    name = _copy(postgres_dsn, "template1")
    yield Store(make_conninfo(postgres_dsn, dbname=name), statement_timeout_s=60)
    _drop(postgres_dsn, name)


@pytest.fixture
def database(postgres_dsn: str, _template: str) -> Iterator[Store]:
    """A migrated database of this test alone; `.connect()` or hand it to a step."""
    name = _copy(postgres_dsn, _template)
    yield Store(make_conninfo(postgres_dsn, dbname=name), statement_timeout_s=60)
    _drop(postgres_dsn, name)


@pytest.fixture
def connection(database: Store) -> Iterator[psycopg.Connection]:
    """An open connection to `database`."""
    with database.connect() as connection:
        yield connection
