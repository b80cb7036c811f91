"""Limits and budgets in their tables: what the file says is written there, what holds is read there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import psycopg
from psycopg.rows import dict_row
from pydantic import ValidationError

from schemas.allowances import AllowanceSettings, Budget, RateLimit
from schemas.config import Config
from schemas.errors import BadConfig, UnknownName
from transforms.allowance.checks import Rules

Origin = Literal["file", "table"]
Rule = TypeVar("Rule", RateLimit, Budget)

TABLES: dict[type[RateLimit] | type[Budget], str] = {RateLimit: "ai_rate_limits", Budget: "ai_budgets"}
_COLUMNS = {
    kind: [name for name in kind.model_fields if name not in ("client", "provider")] for kind in TABLES
}


@dataclass(frozen=True, slots=True)
class Row(Generic[Rule]):
    """A rule as it stands in its table."""

    rule: Rule
    origin: Origin


def write_file_rules(connection: psycopg.Connection, config: Config) -> None:
    """Make the rows of origin `file` of the clients in `config` what `config` says; others are left alone.

    A row of a table for the same client and provider is replaced: the file is what people read.

    Raises:
        BadConfig: two rules of the file are for the same client and provider.
    """
    rules = file_rules(config.allowance, config.client)
    clients = {config.client, *(source.client or config.client for source in config.sources)}
    clients |= {rule.client or config.client for rule in rules}
    with connection.transaction():
        _write_file_rules(connection, RateLimit, sorted(clients), rules)
        _write_file_rules(connection, Budget, sorted(clients), rules)


def _write_file_rules(
    connection: psycopg.Connection,
    kind: type[Rule],
    clients: Sequence[str],
    rules: Sequence[RateLimit | Budget],
) -> None:
    wanted = {(rule.client, rule.provider): rule for rule in rules if isinstance(rule, kind)}
    rows = [row.rule for row in read_rows(connection, kind, clients) if row.origin == "file"]
    stored = {(rule.client, rule.provider): rule for rule in rows}
    for client, provider in stored.keys() - wanted.keys():
        connection.execute(
            f"DELETE FROM {TABLES[kind]} WHERE client = %s AND provider = %s AND origin = 'file'",  # noqa: S608
            [client, provider],
        )
    for key, rule in wanted.items():
        if stored.get(key) != rule:
            _write(connection, rule, "file")


def file_rules(settings: AllowanceSettings, client: str) -> list[RateLimit | Budget]:
    """The rules of the file, each with its client.

    Raises:
        BadConfig: two are for the same client and provider.
    """
    rules: list[RateLimit | Budget] = []
    for name, given in (("rates", settings.rates), ("budgets", settings.budgets)):
        owned = [rule.model_copy(update={"client": rule.client or client}) for rule in given]
        keys = [(rule.client, rule.provider) for rule in owned]
        for owner, provider in keys:
            if keys.count((owner, provider)) > 1:
                raise BadConfig(f"allowance.{name}: client {owner} and provider {provider} stand twice")
        rules.extend(owned)
    return rules


def set_rule(connection: psycopg.Connection, rule: RateLimit | Budget) -> None:
    """Write a rule of origin `table`.

    Raises:
        BadConfig: the file has one for the same client and provider.
    """
    if not _write(connection, rule, "table"):
        raise BadConfig(
            f"client {rule.client}, provider {rule.provider}: the configuration file sets this; change it there"
        )


def drop_rules(connection: psycopg.Connection, client: str, provider: str) -> None:
    """Delete the rules of origin `table` for a client and provider.

    Raises:
        UnknownName: there is none.
    """
    with connection.transaction():
        gone = sum(
            connection.execute(
                f"DELETE FROM {table} WHERE client = %s AND provider = %s AND origin = 'table'",  # noqa: S608
                [client, provider],
            ).rowcount
            for table in TABLES.values()
        )
    if not gone:
        raise UnknownName(
            f"the tables have no limit or budget of client {client} for provider {provider}: `headrace budgets list`"
            " shows what there is; that of the configuration file is changed there"
        )


def _write(connection: psycopg.Connection, rule: RateLimit | Budget, origin: Origin) -> bool:
    """Whether it was written: a row of the file gives way to none of the table."""
    table, columns = TABLES[type(rule)], _COLUMNS[type(rule)]
    done = connection.execute(
        f"INSERT INTO {table} AS t (client, provider, {', '.join(columns)}, origin)"  # noqa: S608
        f" VALUES (%s, %s, {', '.join(['%s'] * len(columns))}, %s)"
        f" ON CONFLICT (client, provider) DO UPDATE SET {', '.join(f'{c} = EXCLUDED.{c}' for c in columns)},"
        " origin = EXCLUDED.origin, updated_at = now() WHERE EXCLUDED.origin = 'file' OR t.origin = 'table'",
        [rule.client, rule.provider, *(getattr(rule, column) for column in columns), origin],
    )
    return bool(done.rowcount)


def read_rows(
    connection: psycopg.Connection, kind: type[Rule], clients: Sequence[str] | None = None
) -> list[Row[Rule]]:
    """Rules of some clients, or of all, by client and provider.

    Raises:
        BadConfig: a row says what no rule can say, such as a provider that there is not.
    """
    table = TABLES[kind]
    with connection.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(
            f"SELECT client, provider, {', '.join(_COLUMNS[kind])}, origin FROM {table}"  # noqa: S608
            " WHERE %s::text[] IS NULL OR client = ANY(%s) ORDER BY client, provider",
            [clients, clients],
        ).fetchall()
    rows = []
    for values in found:
        origin = values.pop("origin")
        try:
            rows.append(Row(kind.model_validate(values), origin))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise BadConfig(
                f"table {table}, client {values['client']}, provider {values['provider']}:"
                f" {first['loc'][0] if first['loc'] else 'row'}: {first['msg'].removeprefix('Value error, ')}"
            ) from None
    return rows


def read_rules(connection: psycopg.Connection, client: str) -> Rules:
    """What holds for a client.

    Raises:
        BadConfig: as `read_rows`.
    """
    return Rules(
        tuple(row.rule for row in read_rows(connection, RateLimit, [client])),
        tuple(row.rule for row in read_rows(connection, Budget, [client])),
    )
