"""Commands that only look. Each imports what it needs when it runs: a search should not wait for Beam."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from schemas.config import Config, load_config
from schemas.documents import Kind

if TYPE_CHECKING:
    from pipelines.verify_sources import SourceVerdict

app = typer.Typer()
dead_letters = typer.Typer(no_args_is_help=True, help="Records that could not be processed.")


class Mode(StrEnum):
    HYBRID = "hybrid"
    VECTOR = "vector"
    TEXT = "text"


class Index(StrEnum):
    PGVECTOR = "pgvector"
    FAISS = "faiss"


@app.command(epilog=example('headrace search "gate jams in frost" --kind issue --since 2025-01-01'))
def search(
    query: Annotated[str, typer.Argument(help="What to look for, in plain words.")],
    config: ConfigOption = DEFAULT_CONFIG,
    client: ClientOption = None,
    mode: Annotated[
        Mode, typer.Option(help="hybrid fuses the ranks of vector and full text search.")
    ] = Mode.HYBRID,
    index: Annotated[Index, typer.Option(help="Where vectors are searched.")] = Index.PGVECTOR,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Documents to show.")] = 10,
    source: Annotated[str | None, typer.Option(help="Only this configured source.")] = None,
    kind: Annotated[Kind | None, typer.Option(help="Only this kind of document.")] = None,
    project: Annotated[str | None, typer.Option(help="Only this Jira project or repository.")] = None,
    since: Annotated[datetime | None, typer.Option(help="Only documents updated at or after (UTC).")] = None,
    until: Annotated[datetime | None, typer.Option(help="Only documents updated before (UTC).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Find documents by meaning, words, or both."""
    from pipelines.search import SearchFilters
    from pipelines.search import search as find

    settings = load_config(config)
    filters = SearchFilters(
        source=source,
        kind=kind.value if kind else None,
        project=project,
        since=since.replace(tzinfo=UTC) if since else None,
        until=until.replace(tzinfo=UTC) if until else None,
    )
    hits = find(
        settings,
        query,
        client=client or settings.client,
        mode=mode.value,
        index=index.value,
        limit=limit,
        filters=filters,
    )
    if as_json:
        print_json([display.hit_as_dict(hit) for hit in hits])
    else:
        display.print_hits(out, hits)


@app.command(epilog=example("headrace status --json"))
def status(
    config: ConfigOption = DEFAULT_CONFIG, client: ClientOption = None, as_json: JsonOption = False
) -> None:
    """What is stored, how fresh it is, and how the last run ended."""
    from pipelines.report import read_status

    settings = load_config(config)
    found = read_status(settings, client or settings.client)
    if settings.flink is not None:
        from runners.flink_jobs import job_status

        found["flink_jobs"] = job_status(settings.flink.url)
    print_json(found) if as_json else display.print_status(out, found)


@app.command(epilog=example("headrace quality --runs 5"))
def quality(
    config: ConfigOption = DEFAULT_CONFIG,
    client: ClientOption = None,
    runs: Annotated[int, typer.Option(min=1, help="How many runs back.")] = 10,
    as_json: JsonOption = False,
) -> None:
    """Quality of the vectors of the last runs: 1 - zero rate - duplicate rate, and their norms."""
    from pipelines.report import read_quality

    settings = load_config(config)
    rows = read_quality(settings, client or settings.client, runs)
    print_json(rows) if as_json else display.print_rows(out, rows, "No run has embedded anything yet.")


@dead_letters.command("list", epilog=example("headrace dead-letters list --all"))
def dead_letters_list(
    config: ConfigOption = DEFAULT_CONFIG,
    client: ClientOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Resolved ones too.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """Records that could not be processed, and why."""
    from pipelines.report import read_dead_letters
    from runners.display_dead_letters import print_dead_letters

    settings = load_config(config)
    rows = read_dead_letters(settings, client or settings.client, everything, limit)
    print_json(rows) if as_json else print_dead_letters(out, rows)


@app.command(epilog=example("headrace verify --sources"))
def verify(
    config: ConfigOption = DEFAULT_CONFIG,
    client: ClientOption = None,
    sources: Annotated[
        bool, typer.Option("--sources", help="Also ask every source what it holds; may take long.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare Postgres with itself, with the FAISS index, and with its sources; exit code 3 if they disagree.

    Changes nothing.
    """
    from pipelines.verify import verify as compare

    settings = load_config(config)
    of_client = client or settings.client
    report = compare(settings, of_client)
    compared = _verify_sources(settings, of_client) if sources else []
    ok = report.ok and all(one.ok for one in compared)
    if as_json:
        more = {"sources": [display.source_verdict_as_dict(one) for one in compared]} if sources else {}
        print_json({**display.verify_as_dict(report), "ok": ok, **more})
    else:
        display.print_verify(out, report)
        if sources:
            display.print_source_verdicts(out, compared)
    if not ok:
        raise typer.Exit(3)


def _verify_sources(settings: Config, client: str) -> list[SourceVerdict]:
    from pipelines.verify_sources import (
        verify_sources,  # loads Beam, which the rest of `verify` does not need
    )

    return verify_sources(settings, client)


@app.command(epilog=example("headrace check"))
def check(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Try all that a run needs without running: sources, database, model; exit code 3 if it is not ready."""
    from pipelines.check import check as try_all

    results = try_all(load_config(config))
    print_json([display.check_as_dict(result) for result in results]) if as_json else display.print_checks(
        out, results
    )
    if not all(result.ok for result in results):
        raise typer.Exit(3)


@app.command(epilog=example("headrace models"))
def models(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """The configured embedding model and the pinned ones: what this machine would run them with, and why."""
    from transforms.embedders.describe import describe_models

    settings = load_config(config) if config.exists() or config != DEFAULT_CONFIG else Config()
    rows = describe_models(settings.model)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        display.print_facts(out, row)


@app.command(epilog=example("headrace export vectors.parquet"))
def export(
    path: Annotated[Path, typer.Argument(help="Parquet file to write.")],
    config: ConfigOption = DEFAULT_CONFIG,
    client: ClientOption = None,
) -> None:
    """Write documents, chunks and vectors to a Parquet file."""
    from pipelines.report import export_to_parquet

    settings = load_config(config)
    rows = export_to_parquet(settings, client or settings.client, path)
    out.print(f"{rows:,} chunks written to {path}")
