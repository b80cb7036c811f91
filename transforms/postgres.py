"""How every step reaches Postgres: what to connect to, and what to try again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt
import psycopg
from pgvector import Vector
from psycopg import conninfo
from psycopg.abc import Buffer
from psycopg.adapt import Dumper, Loader
from psycopg.pq import Format
from psycopg.types import TypeInfo
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from schemas.config import Config
from schemas.errors import BadConfig, DatabaseUnreachable, ExtensionMissing, SinkUnavailable
from schemas.sections import resolve_secret
from transforms import embedded_postgres
from transforms.allowance.rules import write_file_rules
from transforms.migrate import migrate
from transforms.stored_integrations import write_integrations

CONNECT_TIMEOUT_S = 10
SETTING = "postgres.dsn"

T = TypeVar("T")


class _TextVector(Loader):
    """A `vector` as float32 array; what pgvector's own loader gives differs between its releases."""

    def load(self, data: Buffer) -> npt.NDArray[np.float32]:
        return np.array(bytes(data).strip(b"[]").split(b","), np.float32)


class _BinaryVector(Loader):
    format = Format.BINARY

    def load(self, data: Buffer) -> npt.NDArray[np.float32]:
        return np.frombuffer(data, ">f4", offset=4).astype(np.float32)


class _VectorDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: npt.NDArray[np.float32]) -> bytes:
        return bytes(Vector(obj).to_binary())


@lru_cache(maxsize=64)
def _vector_dumper(oid: int) -> type[Dumper]:
    """A dumper that names the type `vector` by the number it has in a database.

    Made once: psycopg keeps each dumper it was ever given, and pgvector's `register_vector` makes eight for each
    connection, 3 KB apiece.
    """
    return type("_VectorDumperOf", (_VectorDumper,), {"oid": oid})


@dataclass(frozen=True, slots=True)
class Store:
    """Where the truth is; picklable and without secrets, so that any worker can connect by it.

    Args:
        dsn: a reference (`env:NAME`, `file:/path`) resolved where it is used, or the embedded server's own
            connection string, which has no password.
        statement_timeout_s: longest a single statement may take.
    """

    dsn: str
    statement_timeout_s: int = 600

    def connect(self) -> psycopg.Connection:
        """A new connection in autocommit mode, in UTC, that takes and gives vectors as numpy arrays.

        Raises:
            BadConfig: the reference leads nowhere, or not to a connection string.
            DatabaseUnreachable: nothing answers, or it refuses; names the setting and the server, no password.
            ExtensionMissing: the database has no pgvector.
        """
        connection = self.connect_plainly()
        vector = TypeInfo.fetch(connection, "vector")
        if vector is None:
            name = connection.info.dbname
            connection.close()
            raise ExtensionMissing(
                f"{SETTING}: database {name!r} has no pgvector: run CREATE EXTENSION vector in it"
            )
        vector.register(connection)
        connection.adapters.register_dumper("numpy.ndarray", _vector_dumper(vector.oid))
        connection.adapters.register_loader(vector.oid, _TextVector)
        connection.adapters.register_loader(vector.oid, _BinaryVector)
        return connection

    def connect_plainly(self) -> psycopg.Connection:
        """As `connect`, for a database that may have no pgvector yet."""
        try:
            given = conninfo.conninfo_to_dict(self._resolved())
        except psycopg.ProgrammingError:
            raise BadConfig(
                f"{SETTING}: what it refers to is no connection string: expected"
                " postgresql://user:password@host:5432/database, or host=... dbname=..."
            ) from None
        given.setdefault("application_name", "headrace")
        given.setdefault("connect_timeout", CONNECT_TIMEOUT_S)
        try:
            connection = psycopg.connect(conninfo.make_conninfo("", **given), autocommit=True)
        except psycopg.Error as error:
            raise DatabaseUnreachable(_unreachable(given, error)) from None
        # Not as startup options, which connection poolers refuse. Dates of the year 1 exist only in UTC.
        connection.execute(
            "SELECT set_config('TimeZone', 'UTC', false), set_config('statement_timeout', %s, false)",
            [f"{self.statement_timeout_s}s"],
        )
        return connection

    def _resolved(self) -> str:
        is_reference = self.dsn.partition(":")[0] in ("env", "file")
        return resolve_secret(self.dsn, SETTING) if is_reference else self.dsn


def open_store(config: Config) -> Store:
    """The store that `config` names, running, with its tables up to date and endpoints and rules of `config` in them.

    Raises:
        SetupError: it cannot be reached, started or migrated, or says something else of an endpoint or rule.
    """
    dsn = config.postgres.dsn or embedded_postgres.start(config.data_dir / "postgres")
    store = Store(dsn, config.postgres.statement_timeout_s)
    with store.connect_plainly() as connection:
        migrate(connection)
        write_integrations(connection, config.integrations)
        if not config.model.is_local or config.moderation is not None:
            write_file_rules(connection, config)
    return store


def _unreachable(given: Mapping[str, str | int | None], error: psycopg.Error) -> str:
    where = ", ".join(
        f"{name} {given[key]}"
        for key, name in (("host", "host"), ("port", "port"), ("dbname", "database"), ("user", "user"))
        if given.get(key)
    )
    reason = (str(error).strip().splitlines() or ["no answer"])[-1].strip()
    password = given.get("password")
    if password:
        reason = reason.replace(str(password), "***")
    return f"{SETTING}: cannot connect to Postgres ({where or 'libpq defaults'}): {reason}"


def is_transient(error: BaseException) -> bool:
    """Whether the same work may succeed on another try: lost connection, deadlock, serialisation, restart."""
    if isinstance(error, DatabaseUnreachable):
        return True
    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return False
    state = error.sqlstate
    return state is None or state[:2] in ("08", "40") or state[:4] == "57P0" or state == "53300"


def is_refused(error: BaseException) -> bool:
    """Whether the role we connect as may not do this."""
    return isinstance(error, psycopg.errors.InsufficientPrivilege)


def is_about_values(error: BaseException) -> bool:
    """Whether some value is to blame: out of range, against a check, or too large for an index."""
    if not isinstance(error, psycopg.Error):
        return False
    state = error.sqlstate or ""
    return state[:2] in ("22", "54") or state == "23514"


class Session:
    """A worker's connection: made when first needed, made anew when it breaks.

    Args:
        attempts: how often work is tried before it counts as impossible.
        max_wait_s: longest pause between two tries.
    """

    def __init__(self, store: Store, attempts: int = 8, max_wait_s: float = 5.0) -> None:
        self._store = store
        self._connection: psycopg.Connection | None = None
        self._retrying = Retrying(
            retry=retry_if_exception(is_transient),
            stop=stop_after_attempt(attempts),
            wait=wait_random_exponential(multiplier=0.05, max=max_wait_s),
            reraise=True,
        )

    def run(self, work: Callable[[psycopg.Connection], T]) -> T:
        """Do `work`, again if need be: it is one transaction, or may be repeated without harm.

        Raises:
            DatabaseUnreachable: there never was a connection.
            SinkUnavailable: it failed at every attempt, or cannot succeed (no space, statement timeout).
            psycopg.Error: the work itself is wrong.
        """
        if self._connection is None:
            self._connection = self._store.connect()
        try:
            return cast(T, self._retrying(self._attempt, work))
        except (psycopg.OperationalError, psycopg.InterfaceError, DatabaseUnreachable) as error:
            if is_about_values(error):
                raise
            said = error.diag.message_primary if isinstance(error, psycopg.Error) else str(error)
            raise SinkUnavailable(
                f"Postgres failed {self._retrying.statistics['attempt_number']} times, last with"
                f" {type(error).__name__} ({said or 'connection lost'}): see whether the server is well, then run"
                " again"
            ) from error

    def _attempt(self, work: Callable[[psycopg.Connection], T]) -> T:
        if self._connection is None or self._connection.closed:
            self._connection = self._store.connect()
        return work(self._connection)

    def close(self) -> None:
        """End the connection; the next `run` makes another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
