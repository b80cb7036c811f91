"""`headrace budgets`: what clients may use at providers. Imports what it needs when it runs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from runners import display
from runners.cli_shared import (
    DEFAULT_CONFIG,
    ClientOption,
    ConfigOption,
    JsonOption,
    example,
    out,
    print_json,
)
from schemas.allowances import EVERY
from schemas.config import load_config

app = typer.Typer(no_args_is_help=True, help="Limits and budgets of clients, and what is spent of them.")

ProviderOption = Annotated[
    str, typer.Option("--provider", help="One provider; * counts all of them together.")
]


@app.command("list", epilog=example("headrace budgets list"))
def list_all(
    config: ConfigOption = DEFAULT_CONFIG,
    client: Annotated[str | None, typer.Option(help="Only this client's; all if not given.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Every limit and budget, of the file and of the tables, and what the ledger says is spent (days are UTC's)."""
    from pipelines.budgets import read_budgets

    rows = read_budgets(load_config(config), client)
    if as_json:
        print_json(rows)
    else:
        display.print_rows(out, rows, "No limits and no budgets.")


@app.command("set", epilog=example("headrace budgets set --client acme --provider openai --monthly-usd 50"))
def set_some(
    config: ConfigOption = DEFAULT_CONFIG,
    client: ClientOption = None,
    provider: ProviderOption = EVERY,
    monthly_usd: Annotated[str | None, typer.Option(help="Dollars of a calendar month.")] = None,
    alert_threshold: Annotated[
        str | None, typer.Option(help="Share of it at which an alert is raised, such as 0.8.")
    ] = None,
    hard_limit: Annotated[
        bool | None, typer.Option("--hard/--soft", help="Refuse requests beyond it, or only alert.")
    ] = None,
    cost_per_day_usd: Annotated[str | None, typer.Option(help="Dollars of a day.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(help="In any sixty seconds.")] = None,
    tokens_per_hour: Annotated[int | None, typer.Option(help="In any sixty minutes.")] = None,
) -> None:
    """Change limits or a budget in the tables; what is not given stays. Workers follow within five minutes."""
    from pydantic import ValidationError

    from pipelines.budgets import change_budget

    budget = _given(monthly_usd=monthly_usd, alert_threshold=alert_threshold, hard_limit=hard_limit)
    rate = _given(
        cost_per_day_usd=cost_per_day_usd,
        requests_per_minute=requests_per_minute,
        tokens_per_hour=tokens_per_hour,
    )
    if not budget and not rate:
        raise typer.BadParameter("give a limit or a budget to set")
    settings = load_config(config)
    try:
        change_budget(settings, client or settings.client, provider, budget, rate)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "provider"
        raise typer.BadParameter(
            first["msg"].removeprefix("Value error, "), param_hint=f"--{name.replace('_', '-')}"
        ) from None


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


@app.command("remove", epilog=example("headrace budgets remove --client acme --provider openai"))
def remove(
    config: ConfigOption = DEFAULT_CONFIG, client: ClientOption = None, provider: ProviderOption = EVERY
) -> None:
    """Take limits and budget of a client and provider out of the tables; those of the file are changed there."""
    from pipelines.budgets import remove_budget

    settings = load_config(config)
    remove_budget(settings, client or settings.client, provider)
