"""What the commands print: tables for people, plain dictionaries for programs."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from schemas.outcomes import SKIPPED_PREFIX, Outcome

if TYPE_CHECKING:
    from pipelines.check import CheckResult
    from pipelines.reconcile import SourceReport
    from pipelines.search import Hit
    from pipelines.verify import VerifyReport
    from pipelines.verify_sources import SourceVerdict
    from runners.forget import Forgotten
    from runners.reconcile import ReconcileSummary
    from runners.run import RunSummary
    from transforms.stored_sources import Holdings

SNIPPET_CHARS = 200
PLAIN_WIDTH = 120
"""Columns where the output is no terminal: a file or another program does not wrap."""

WIDEST_CHARS = 10_000
"""A table is never wider."""


def console(stderr: bool = False) -> Console:
    """A console that does not fold tables to 80 columns when it is piped."""
    found = Console(stderr=stderr)
    return found if found.is_terminal else Console(stderr=stderr, width=PLAIN_WIDTH)


MOST_PLACES = 9
"""Of a dollar: budgets are counted in billionths."""


def dollars(usd: Decimal | float, places: int = 2) -> str:
    """With so many places, and more where they would show less than two digits of what is not zero."""
    exact = round(Decimal(usd), MOST_PLACES)
    shown = max(places, min(MOST_PLACES, 1 - exact.adjusted())) if exact else places
    return f"${exact:,.{shown}f}"


def _table(*columns: str, right: Sequence[str] = ()) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        heading = column.replace("_", " ")
        table.add_column(heading, justify="right" if column in right else "left", overflow="fold")
    return table


def skipped(outcomes: Mapping[str, int]) -> dict[str, int]:
    """Reason -> count of the records a source passed over."""
    return {
        name.removeprefix(SKIPPED_PREFIX): n
        for name, n in outcomes.items()
        if name.startswith(SKIPPED_PREFIX)
    }


def outcome_row(outcomes: Counter[str]) -> dict[str, int]:
    """The counts of a run's table, in its order."""
    return {
        "read": outcomes.total(),
        **{str(outcome): outcomes[outcome] for outcome in Outcome},
        "skipped": sum(skipped(outcomes).values()),
    }


def summary_as_dict(summary: RunSummary) -> dict[str, Any]:
    """A run's summary for programs."""
    return {
        "run_id": str(summary.run_id),
        "space_id": summary.space.space_id,
        "model": summary.space.model,
        "duration_s": round(summary.duration_s, 3),
        "sources": {
            name: {**outcome_row(outcomes), "skipped_reasons": skipped(outcomes)}
            for name, outcomes in summary.outcomes.items()
        },
        "total": outcome_row(summary.totals),
        "tokens_seen": summary.tokens_seen,
        "tokens_truncated": summary.tokens_truncated,
        "usage": {**dataclasses.asdict(summary.usage), "hit_rate": round(summary.usage.hit_rate, 4)},
        "engine_s": round(summary.work.engine_s, 3),
        "chunk_s": round(summary.work.chunk_s, 3),
        "waited_for_engine_s": round(summary.work.wait_s, 3),
        "moderation": summary.moderated,
        "redacted": summary.redacted,
        "quality": {**dataclasses.asdict(summary.quality), "quality_score": summary.quality.quality_score},
        "indexes": {client: dataclasses.asdict(report) for client, report in summary.indexes.items()},
        "failures": summary.failures,
        "parked": summary.parked,
    }


def failure_line(source: str, reason: str) -> str:
    """Which source could not be read, and why; most reasons name it themselves."""
    named = re.search(rf"source ['\"]?{re.escape(source)}(?!\w)", reason)
    return reason if named else f"{source}: {reason}"


def print_summary(console: Console, summary: RunSummary) -> None:
    """Outcomes of each source, then what it took."""
    columns = ["source", *outcome_row(Counter())]
    table = _table(*columns, right=columns[1:])
    for name, outcomes in summary.outcomes.items():
        table.add_row(name, *(f"{number:,}" for number in outcome_row(outcomes).values()))
    if len(summary.outcomes) > 1:
        table.add_section()
        table.add_row("total", *(f"{number:,}" for number in outcome_row(summary.totals).values()))
    console.print(table)
    usage, quality = summary.usage, summary.quality
    facts = {
        "tokens": f"{usage.tokens:,} embedded, {summary.tokens_truncated:,} truncated",
        "embeddings": f"{usage.inputs:,} in {usage.calls:,} calls, {usage.reused:,} reused,"
        f" {usage.cache_hits:,} from equal texts ({usage.hit_rate:.1%})",
        "cost": f"{dollars(usage.cost_usd, 4)} and {usage.machine_seconds:,.1f} machine seconds",
        "quality": f"{quality.quality_score:.4f} over {quality.vectors:,} vectors",
    }
    if summary.redacted:
        kinds = ", ".join(f"{number:,} {kind}" for kind, number in summary.redacted.items())
        facts["redacted"] = f"{sum(summary.redacted.values()):,} values: {kinds}"
    if summary.moderated:
        counts = summary.moderated
        facts["moderation"] = (
            f"{counts['judged'] + counts['flagged']:,} documents judged, {counts['flagged']:,} of them flagged;"
            f" judged by nobody: {counts['refused']:,} refused, {counts['passed']:,} embedded"
        )
    for client, index in summary.indexes.items():
        facts[f"FAISS index of {client}"] = f"{index.count:,} vectors, {index.kind} ({index.action})"
    work, duration_s = summary.work, summary.duration_s
    facts["duration"] = (
        f"{duration_s:.1f} s; the engine at work {work.engine_s / duration_s:.0%} of it, tokenizing and cutting"
        f" {work.chunk_s / duration_s:.0%} beside it"
    )
    print_facts(console, facts)
    for reason, number in sorted(skipped(summary.totals).items()):
        console.print(f"  skipped {number:,}: {reason}", highlight=False)
    for reason, number in summary.parked.items():
        line = f"  parked {number:,} until an endpoint can be asked; tried again by itself: {reason}"
        console.print(Text(line, style="yellow"), soft_wrap=True)
    if summary.totals[Outcome.DEAD_LETTERED]:
        console.print("  why records were dead-lettered: headrace dead-letters list", style="yellow")


def hit_as_dict(hit: Hit) -> dict[str, Any]:
    """A search result for programs."""
    return dataclasses.asdict(hit)


def print_hits(console: Console, hits: Sequence[Hit]) -> None:
    """Score, what it is, where to read it, and the words that matched."""
    if not hits:
        console.print("Nothing found.")
    for hit in hits:
        head = Text.assemble(
            (f"{hit.score:.4f}", "green"), "  ", (f"{hit.kind} {_short(hit.key)}", "bold"), "  ", hit.title
        )
        console.print(head, highlight=False)
        if hit.url:
            console.print(Text(f"        {hit.url}", style="cyan"), soft_wrap=True)
        snippet = " ".join(hit.text.split()).removeprefix(f"# {hit.title}").strip()
        if len(snippet) > SNIPPET_CHARS:
            snippet = snippet[:SNIPPET_CHARS].rsplit(" ", 1)[0] + " …"
        console.print(Padding(Text(snippet, style="dim"), (0, 0, 0, 8), expand=False))


def _short(key: str) -> str:
    """A commit's sha at the length people write."""
    return key[:12] if len(key) == 40 and key.isalnum() else key


def print_rows(console: Console, rows: Sequence[Mapping[str, Any]], empty: str) -> None:
    """Rows as a table with a column for every key that any has; `empty` where there are none."""
    console.print(_rows_table(rows) if rows else empty)


def _rows_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = dict.fromkeys(name for row in rows for name in row)
    numeric = [name for name in columns if any(_is_number(row.get(name)) for row in rows)]
    table = _table(*columns, right=numeric)
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in columns))
    return table


def _print_part(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """A table where it fits; where its words would be broken, each row by itself, a line a column."""
    unbroken = console.options.update_width(WIDEST_CHARS)
    if not rows or console.measure(_rows_table(rows), options=unbroken).maximum <= console.width:
        print_rows(console, rows, "  none")
        return
    for row in rows:
        print_facts(console, row)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def print_facts(console: Console, facts: Mapping[str, Any]) -> None:
    """A line a fact."""
    table = _table("", "")
    table.show_header = False
    for name, value in facts.items():
        table.add_row(name.replace("_", " "), _cell(value))
    console.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.3f}"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    if isinstance(value, date):
        return value.isoformat()
    return str(value)


def print_status(console: Console, status: Mapping[str, Any]) -> None:
    """Each part of the status under its name."""
    for name, part in status.items():
        if name == "not_configured" and not part:
            continue
        if name == "sources":
            console.print(Text(name, style="bold"))
            print_rows(console, [_source_summary(row) for row in part], "  none")
            for row in part:
                _print_problems(console, row)
        elif isinstance(part, list):
            console.print(Text(name.replace("_", " "), style="bold"))
            _print_part(console, part)
        elif isinstance(part, Mapping):
            console.print(Text(name.replace("_", " "), style="bold"))
            print_rows(
                console, [{"": key.replace("_", " "), " ": value} for key, value in part.items()], "  none"
            )
        else:
            console.print(f"{name.replace('_', ' ')}: {_cell(part)}", highlight=False)


def _source_summary(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a person wants to know of a source first."""
    return {
        "source": row["source"],
        "condition": row["condition"],
        "lag_s": row["lag_s"],
        "newest_change": row["newest_change"],
        "last_success": row["last_success_at"],
        "next_poll": row["next_poll_at"],
        "reconciled": row["last_reconciled_at"],
    }


def _print_problems(console: Console, row: Mapping[str, Any]) -> None:
    """Why a source waits or fails, a line each: too long for a column."""
    for reason in filter(None, (row["waiting_for"], row["last_error"], row["reconcile_error"])):
        console.print(Text(f"  {failure_line(row['source'], reason)}", style="yellow"), soft_wrap=True)


def print_retry(console: Console, counts: Mapping[str, int]) -> None:
    """How the retried records ended."""
    if not counts:
        console.print("No open dead letters.")
    for name, number in counts.items():
        console.print(f"{name.replace('_', '-')}: {number:,}", highlight=False)


def verify_as_dict(report: VerifyReport) -> dict[str, Any]:
    """A verification for programs."""
    return {"ok": report.ok, **dataclasses.asdict(report)}


def print_verify(console: Console, report: VerifyReport) -> None:
    """What was compared, and what is wrong."""
    for name, value in dataclasses.asdict(report).items():
        console.print(f"{name.replace('_', ' ')}: {_cell(value)}", highlight=False)
    verdict = Text("Postgres and FAISS agree.", style="green")
    if not report.ok:
        verdict = Text("They disagree: run `headrace run` to mend the index.", style="red")
    console.print(verdict)


def source_verdict_as_dict(verdict: SourceVerdict) -> dict[str, Any]:
    """A source's verification for programs."""
    return {"ok": verdict.ok, **dataclasses.asdict(verdict)}


def print_source_verdicts(console: Console, verdicts: Sequence[SourceVerdict]) -> None:
    """A line a source, then some of what differs."""
    rows = [
        {
            "source": verdict.source,
            "in source": verdict.difference.in_source if verdict.difference else None,
            "stored": verdict.difference.in_store if verdict.difference else None,
            "missing in source": verdict.difference.missing_in_source if verdict.difference else None,
            "missing in store": verdict.difference.missing_in_store if verdict.difference else None,
        }
        for verdict in verdicts
    ]
    print_rows(console, rows, "No source of this client is configured.")
    for verdict in verdicts:
        if verdict.error or verdict.not_asked:
            line = f"  {failure_line(verdict.source, verdict.error or f'not asked: {verdict.not_asked}')}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        for side, some in verdict.examples.items():
            console.print(f"  {verdict.source}, missing in {side}: {', '.join(some)}", highlight=False)
    if any(verdict.error for verdict in verdicts):
        console.print(Text("Not every source could be asked.", style="red"))
    if any(not verdict.ok and not verdict.error for verdict in verdicts):
        console.print(Text("Sources and Postgres differ: run `headrace reconcile`.", style="red"))


def reconciliation_as_dict(summary: ReconcileSummary) -> dict[str, Any]:
    """A reconciliation for programs."""
    return {
        "ok": summary.ok,
        "run_id": str(summary.run_id) if summary.run_id else None,
        "sources": [
            {**dataclasses.asdict(report), "outcomes": outcome_row(report.outcomes)}
            for report in summary.reports
        ],
        "indexes": {client: dataclasses.asdict(report) for client, report in summary.indexes.items()},
    }


def print_reconciliation(console: Console, summary: ReconcileSummary) -> None:
    """What each census found, and what came of looking again."""
    print_rows(console, [_reconciled_row(report) for report in summary.reports], "No source is configured.")
    for report in summary.reports:
        if report.not_asked:
            console.print(f"{report.source}: not asked: {report.not_asked}", highlight=False)
        for problem in filter(None, (report.refused, report.error)):
            console.print(Text(f"{report.source}: {problem}", style="red"), soft_wrap=True)


def _reconciled_row(report: SourceReport) -> dict[str, Any]:
    found = report.difference
    return {
        "source": report.source,
        "in source": found.in_source if found else None,
        "stored": found.in_store if found else None,
        "missing in source": found.missing_in_source if found else None,
        "missing in store": found.missing_in_store if found else None,
        "gone": report.gone,
        "there": report.there,
        "unanswered": report.unanswered,
        **{str(outcome): report.outcomes[outcome] for outcome in Outcome},
    }


def holdings_as_dict(held: Holdings) -> dict[str, Any]:
    """What is stored of a source, for programs."""
    return {"documents": dict(held.documents), "dead_letters": held.dead_letters}


def print_holdings(console: Console, held: Holdings) -> None:
    """A line for each kind of document."""
    facts = {**held.documents, "dead letters": held.dead_letters}
    print_facts(console, {name: number for name, number in facts.items() if number} or {"documents": 0})


def forgotten_as_dict(done: Forgotten) -> dict[str, Any]:
    """What was deleted, for programs."""
    return {"run_id": str(done.run_id), "deleted": done.deleted, "index": dataclasses.asdict(done.index)}


def check_as_dict(result: CheckResult) -> dict[str, Any]:
    """One check for programs."""
    return dataclasses.asdict(result)


def print_checks(console: Console, results: Sequence[CheckResult]) -> None:
    """A line a check."""
    for result in results:
        mark = Text("ok  ", style="green") if result.ok else Text("no  ", style="red")
        console.print(Text.assemble(mark, (result.name, "bold"), "  ", result.detail), soft_wrap=True)
