"""`headrace integrations`: the endpoints that embed. Imports what it needs when it runs."""

from __future__ import annotations

import typer

from runners import display
from runners.cli_shared import DEFAULT_CONFIG, ConfigOption, JsonOption, example, out, print_json
from schemas.config import load_config

app = typer.Typer(no_args_is_help=True, help="Endpoints that embed, from the file and from the table.")


@app.command("list", epilog=example("headrace integrations list"))
def list_all(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Every endpoint, what it serves and asks, where its key is kept, and who stands in for it."""
    from pipelines.integrations import read_integrations

    rows = read_integrations(load_config(config))
    if as_json:
        print_json(rows)
    else:
        display.print_rows(out, rows, "No integrations are configured.")


@app.command(epilog=example("headrace integrations check"))
def check(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Try every endpoint at no cost: its key, its model, its dimensions; exit code 3 if one is not ready."""
    from pipelines.check import check_integrations

    results = check_integrations(load_config(config))
    if as_json:
        print_json([display.check_as_dict(result) for result in results])
    elif results:
        display.print_checks(out, results)
    else:
        out.print("No integrations are configured.")
    if not all(result.ok for result in results):
        raise typer.Exit(3)
