"""What `headrace usage` prints. Programs get exact decimals as text, people four places of a dollar or more."""

from __future__ import annotations

import csv
import dataclasses
import sys
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from runners.display import dollars
from transforms.usage import hit_rate

if TYPE_CHECKING:
    from pipelines.usage import Chargeback, UsageReport
    from pipelines.usage_gateways import GatewayTotal
    from transforms.usage_sums import Column, UsageSums

SUM_FIELDS = (
    "calls",
    "failed_calls",
    "inputs",
    "tokens",
    "reused",
    "cache_hits",
    "hit_rate",
    "tokens_saved",
    "usd_saved",
    "cost_usd",
    "machine_seconds",
)
CHARGE_FIELDS = ("month", "client", "charge_usd", *SUM_FIELDS)
PEOPLES_COLUMNS = ("calls", "failed", "inputs", "tokens", "cache hits", "saved", "cost", "machine s")


def sums_as_dict(sums: UsageSums) -> dict[str, Any]:
    """Sums for programs, with the share of hits; in the order of `SUM_FIELDS`."""
    values = dataclasses.asdict(sums)
    values["hit_rate"] = round(hit_rate(sums.cache_hits, sums.inputs), 4)
    values["machine_seconds"] = round(sums.machine_seconds, 3)
    return {field: _plain(values[field]) for field in SUM_FIELDS}


def _plain(value: object) -> object:
    """Decimals in full, never as 1.3E-7."""
    return format(value, "f") if isinstance(value, Decimal) else value


def usage_fields(by: Sequence[Column]) -> tuple[str, ...]:
    """Columns of the rows."""
    return (*by, *SUM_FIELDS)


def usage_rows(report: UsageReport) -> list[dict[str, Any]]:
    """A row a group."""
    return [{**row.group, **sums_as_dict(row.sums)} for row in report.rows]


def usage_as_dict(report: UsageReport, gateways: Sequence[GatewayTotal]) -> dict[str, Any]:
    """A report for programs."""
    return {
        "first_day": report.period.first,
        "last_day": report.period.last,
        "rows": usage_rows(report),
        "total": sums_as_dict(report.total),
        "gateways": [
            {
                "integrations": total.integrations,
                "ours_usd": _plain(total.ours_usd),
                "theirs_usd": _plain(total.theirs_usd),
                "difference_usd": _plain(total.difference_usd),
                "problem": total.problem,
            }
            for total in gateways
        ],
    }


def charge_rows(report: Chargeback) -> list[dict[str, Any]]:
    """A row a month and client."""
    return [
        {
            "month": charge.month,
            "client": charge.client,
            "charge_usd": _plain(charge.charge_usd),
            **sums_as_dict(charge.sums),
        }
        for charge in report.charges
    ]


def chargeback_as_dict(report: Chargeback) -> dict[str, Any]:
    """Charges for programs."""
    return {
        "first_day": report.period.first,
        "last_day": report.period.last,
        "charges": charge_rows(report),
        "total_usd": _plain(report.total_usd),
        "total": sums_as_dict(report.total),
    }


def write_csv(fields: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Rows on standard output, as RFC 4180 has it."""
    writer = csv.DictWriter(sys.stdout, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def print_usage(console: Console, report: UsageReport, gateways: Sequence[GatewayTotal]) -> None:
    """A table with its total, then what gateways say."""
    if report.rows:
        _print_rows(console, report)
    else:
        console.print(f"Nothing was embedded from {report.period.first} to {report.period.last}.")
    if gateways:
        _print_gateways(console, gateways)


def _print_gateways(console: Console, gateways: Sequence[GatewayTotal]) -> None:
    """Ours and theirs, each since it began to count."""
    table = _table(["gateway"], ("ours, ever", "theirs", "difference"))
    for total in gateways:
        names = ", ".join(total.integrations)
        table.add_row(
            names, _dollars(total.ours_usd), _dollars(total.theirs_usd), _dollars(total.difference_usd)
        )
    console.print(table)
    for total in gateways:
        if total.problem is not None:
            console.print(f"  {total.integrations[0]}: {total.problem}", markup=False, soft_wrap=True)


def _dollars(usd: Decimal | None) -> str:
    return "-" if usd is None else dollars(usd, 4)


def _print_rows(console: Console, report: UsageReport) -> None:
    groups = [list(row.group.values()) for row in report.rows]
    table = _table([name.replace("_", " ") for name in report.rows[0].group], PEOPLES_COLUMNS)
    for group, row in zip(groups, report.rows, strict=True):
        table.add_row(*(Text(value or "-") for value in group), *_cells(row.sums))
    if len(report.rows) > 1:
        table.add_section()
        table.add_row("total", *[""] * (len(groups[0]) - 1), *_cells(report.total))
    console.print(table)


def print_chargeback(console: Console, report: Chargeback) -> None:
    """A line a client and month, then what they add up to."""
    if not report.charges:
        console.print(f"Nothing was embedded from {report.period.first} to {report.period.last}.")
        return
    table = _table(["month", "client"], ("charge", *PEOPLES_COLUMNS))
    for charge in report.charges:
        table.add_row(charge.month, charge.client, f"${charge.charge_usd:,.2f}", *_cells(charge.sums))
    table.add_section()
    table.add_row("total", "", f"${report.total_usd:,.2f}", *_cells(report.total))
    console.print(table)


def _table(left: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in left:
        table.add_column(name, overflow="fold", no_wrap=name in ("day", "month"))
    for name in right:  # a sum cut short is no sum: names make room
        table.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True)
    return table


def _cells(sums: UsageSums) -> list[str]:
    """As `PEOPLES_COLUMNS`."""
    return [
        f"{sums.calls:,}",
        f"{sums.failed_calls:,}",
        f"{sums.inputs:,}",
        f"{sums.tokens:,}",
        f"{sums.cache_hits:,}",
        dollars(sums.usd_saved, 4),
        dollars(sums.cost_usd, 4),
        f"{sums.machine_seconds:,.1f}",
    ]
