"""`headrace readers`: database roles that see one client's rows. Imports what it needs when it runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runners import display
from runners.cli_shared import DEFAULT_CONFIG, ConfigOption, JsonOption, example, out, print_json
from schemas.config import load_config
from schemas.errors import SetupError

if TYPE_CHECKING:
    import psycopg

app = typer.Typer(no_args_is_help=True, help="Database roles that see one client's rows and no other's.")

RoleArgument = Annotated[str, typer.Argument(help="The role's name in Postgres.")]
ReadClientOption = Annotated[str, typer.Option(help="Whose rows.")]


@contextmanager
def _connected(path: Path) -> Iterator[psycopg.Connection]:
    from transforms.postgres import open_store

    settings = load_config(path)
    if settings.postgres.dsn is None:
        raise SetupError(
            "the embedded Postgres asks nobody who he is, so its roles keep nothing apart: set postgres.dsn to a"
            " server of your own"
        )
    with open_store(settings).connect() as connection:
        yield connection


@app.command("list", epilog=example("headrace readers list"))
def list_readers(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Which roles read which clients."""
    from transforms.row_security import readers

    with _connected(config) as connection:
        rows = [dataclasses.asdict(reader) for reader in readers(connection)]
    print_json(rows) if as_json else display.print_rows(out, rows, "No role reads any client.")


@app.command(epilog=example("headrace readers grant acme_reader --client acme"))
def grant(role: RoleArgument, client: ReadClientOption, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Let a role search and export a client's documents and see its costs, and nothing of any other client.

    A role that is not there is made, without a password. From the first grant on, changes are told on a channel for
    each client: see the table change_channels.
    """
    from transforms.row_security import grant_reader

    with _connected(config) as connection:
        made = grant_reader(connection, role, client)
    more = " (made now; it has no password yet)" if made else ""
    out.print(f"role {role}{more} reads client {client}", markup=False, highlight=False, soft_wrap=True)


@app.command(epilog=example("headrace readers revoke acme_reader --client acme"))
def revoke(role: RoleArgument, client: ReadClientOption, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Take that back; the role itself stays."""
    from transforms.row_security import revoke_reader

    with _connected(config) as connection:
        revoke_reader(connection, role, client)
    out.print(
        f"role {role} does not read client {client} any more", markup=False, highlight=False, soft_wrap=True
    )
