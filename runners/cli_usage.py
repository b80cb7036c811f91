"""`headrace usage`: what was used and what it cost. Imports what it needs when it runs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, TypeVar

import typer

from runners import display_usage
from runners.cli_shared import DEFAULT_CONFIG, ConfigOption, JsonOption, example, out, print_json
from schemas.config import Config, load_config

app = typer.Typer()

T = TypeVar("T")


def _parsed(option: str, text: str, parse: Callable[[str], T]) -> T:
    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


@app.command(epilog=example("headrace usage --range 7d --by client,model"))
def usage(
    config: ConfigOption = DEFAULT_CONFIG,
    by: Annotated[
        str, typer.Option(help="Of day, month, client, provider, model, source, operation; with commas.")
    ] = "day,client,provider,model,operation",
    period: Annotated[
        str,
        typer.Option(
            "--range",
            help="7d, 2026-11, 2026-11-20, or two months or days joined by .. (days are UTC's).",
        ),
    ] = "30d",
    client: Annotated[str | None, typer.Option(help="Only this client's; all if not given.")] = None,
    chargeback: Annotated[
        str | None,
        typer.Option(
            metavar="MONTH",
            help="What to charge each client for 2026-11, or 2026-10..2026-11, in cents that add up.",
        ),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Calls, tokens, machine seconds and dollars, and what the cache saved; beside it, what gateways have counted."""
    settings = load_config(config)
    if chargeback is not None:
        _charge(settings, chargeback, client, as_csv, as_json)
        return
    from pipelines.usage import parse_columns, parse_period, read_usage

    columns = _parsed("--by", by, parse_columns)
    days = _parsed("--range", period, partial(parse_period, today=datetime.now(UTC).date()))
    report = read_usage(settings, columns, days, client)
    if as_csv:
        display_usage.write_csv(display_usage.usage_fields(columns), display_usage.usage_rows(report))
        return
    from pipelines.usage_gateways import gateway_totals

    gateways = gateway_totals(settings) if client is None else []  # a key may serve several clients
    if as_json:
        print_json(display_usage.usage_as_dict(report, gateways))
    else:
        display_usage.print_usage(out, report, gateways)


def _charge(settings: Config, months: str, client: str | None, as_csv: bool, as_json: bool) -> None:
    from pipelines.usage import parse_months, read_chargeback

    report = read_chargeback(settings, _parsed("--chargeback", months, parse_months), client)
    if as_json:
        print_json(display_usage.chargeback_as_dict(report))
    elif as_csv:
        display_usage.write_csv(display_usage.CHARGE_FIELDS, display_usage.charge_rows(report))
    else:
        display_usage.print_chargeback(out, report)
