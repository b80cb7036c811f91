"""The command line. Each command imports what it needs when it runs: a search should not wait for Beam."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn
from uuid import UUID

import orjson
import typer

from runners import display
from schemas.config import Config, load_config
from schemas.documents import Kind
from schemas.errors import PipelineError, SetupError

if TYPE_CHECKING:
    from pipelines.verify_sources import SourceVerdict

EXIT_CODES = """
Exit codes: 0 done; 1 something a person must change (one line on stderr says what); 2 wrong usage of the command
line; 3 `verify` or `check` found problems; 130 interrupted with Ctrl-C, everything stored so far is consistent.
"""

app = typer.Typer(
    name="headrace",
    help="Keeps a vector index of Jira, GitHub and git true." + EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
dead_letters = typer.Typer(no_args_is_help=True, help="Records that could not be processed.")
app.add_typer(dead_letters, name="dead-letters")

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", envvar="HEADRACE_CONFIG", help="The TOML file.", show_default=True)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
ClientOption = Annotated[
    str | None, typer.Option("--client", help="Whose data; the file's client if not given.")
]
DEFAULT_CONFIG = Path("headrace.toml")

out = display.console()
err = display.console(stderr=True)


class Mode(StrEnum):
    HYBRID = "hybrid"
    VECTOR = "vector"
    TEXT = "text"


class Index(StrEnum):
    PGVECTOR = "pgvector"
    FAISS = "faiss"


def _example(line: str) -> str:
    return f"Example: {line}"


def _print_json(value: object) -> None:
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode() + "\n")


@app.command(
    epilog=_example("headrace run --config demo.toml"),
    context_settings={"allow_extra_args": True, "ignore_unknown_options": False},
)
def run(context: typer.Context, config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Read what changed in every source, embed it, store it, bring the FAISS index up to date.

    Resumable: stopped at any moment, the next run goes on where it was. A source that cannot be read keeps no other
    from it; why is said at the end, with exit code 1. Beam options may follow `--`.
    """
    from runners.progress_bar import run_progress
    from runners.slices import run as run_slices

    settings = load_config(config)
    with _interruptible(), run_progress(err, visible=err.is_terminal and not as_json) as bar:
        summary = run_slices(settings, bar, context.args)
    if as_json:
        _print_json(display.summary_as_dict(summary))
    elif summary.ok or summary.totals:
        display.print_summary(out, summary)
    for source, reason in summary.failures.items():
        _complain(display.failure_line(source, reason))
    if not summary.ok:
        raise typer.Exit(1)


@app.command(epilog=_example('headrace search "gate jams in frost" --kind issue --since 2025-01-01'))
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
        _print_json([display.hit_as_dict(hit) for hit in hits])
    else:
        display.print_hits(out, hits)


@app.command(epilog=_example("headrace status --json"))
def status(
    config: ConfigOption = DEFAULT_CONFIG, client: ClientOption = None, as_json: JsonOption = False
) -> None:
    """What is stored, how fresh it is, and how the last run ended."""
    from pipelines.report import read_status

    settings = load_config(config)
    found = read_status(settings, client or settings.client)
    _print_json(found) if as_json else display.print_status(out, found)


@app.command(epilog=_example("headrace usage --days 7"))
def usage(
    config: ConfigOption = DEFAULT_CONFIG,
    client: ClientOption = None,
    days: Annotated[int, typer.Option(min=1, help="How many days back, today included.")] = 30,
    as_json: JsonOption = False,
) -> None:
    """Calls, tokens and dollars by day, provider and model."""
    from pipelines.report import read_usage

    settings = load_config(config)
    rows = read_usage(settings, client or settings.client, days)
    _print_json(rows) if as_json else display.print_rows(
        out, rows, "No embedding was asked for in that time."
    )


@app.command(epilog=_example("headrace quality --runs 5"))
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
    _print_json(rows) if as_json else display.print_rows(out, rows, "No run has embedded anything yet.")


@dead_letters.command("list", epilog=_example("headrace dead-letters list --all"))
def dead_letters_list(
    config: ConfigOption = DEFAULT_CONFIG,
    client: ClientOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Resolved ones too.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """Records that could not be processed, and why."""
    from pipelines.report import read_dead_letters

    settings = load_config(config)
    rows = read_dead_letters(settings, client or settings.client, everything, limit)
    _print_json(rows) if as_json else display.print_rows(out, rows, "No dead letters.")


@dead_letters.command("retry", epilog=_example("headrace dead-letters retry"))
def dead_letters_retry(
    ids: Annotated[list[UUID] | None, typer.Argument(help="Which; all open ones if none is given.")] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    client: ClientOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put dead letters through the pipeline again; those that pass are stored and marked resolved."""
    from runners.progress_bar import run_progress
    from runners.slices import retry_dead_letters

    settings = load_config(config)
    with _interruptible(), run_progress(err, visible=err.is_terminal and not as_json) as bar:
        counts = retry_dead_letters(settings, bar, client or settings.client, ids or None)
    _print_json(counts) if as_json else display.print_retry(out, counts)


@app.command(epilog=_example("headrace verify --sources"))
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
        _print_json({**display.verify_as_dict(report), "ok": ok, **more})
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


def _duration(text: str) -> float:
    from runners.schedule import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@app.command(epilog=_example("headrace watch --for 8h"))
def watch(
    config: ConfigOption = DEFAULT_CONFIG,
    duration_s: Annotated[
        float | None,
        typer.Option("--for", parser=_duration, metavar="DURATION", help="End after 90s, 10m, 1h30m."),
    ] = None,
) -> None:
    """Follow every source until Ctrl-C or SIGTERM: each at its own interval, webhooks and reconciliations included.

    A source that fails is tried again, later each time, and holds up no other; `headrace status` shows how it stands.
    What changed is said on stderr.
    """
    from runners.watch import watch as follow

    settings = load_config(config)
    try:
        follow(settings, _say, duration_s=duration_s)
    except KeyboardInterrupt:
        _say("stopped; what was stored is consistent")


def _say(line: str) -> None:
    now = datetime.now(UTC)
    err.print(f"{now:%H:%M:%S} {line}", markup=False, highlight=False, soft_wrap=True)


@app.command(epilog=_example("headrace reconcile --source tickets --dry-run"))
def reconcile(
    config: ConfigOption = DEFAULT_CONFIG,
    source: Annotated[str | None, typer.Option(help="Only this configured source.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Delete even more than reconcile.max_share at once.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Compare only; nothing is changed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Ask every source for all it holds, and mend the difference: store what was missed, delete what is gone.

    Nothing is deleted unless its source says of that very document that it is gone. Exit code 1 if a source could not
    be asked, or too much would be deleted.
    """
    from runners.progress_bar import run_progress
    from runners.reconcile import reconcile_sources

    settings = load_config(config)
    with _interruptible(), run_progress(err, visible=err.is_terminal and not as_json) as bar:
        summary = reconcile_sources(settings, bar, name=source, force=force, dry_run=dry_run)
    if as_json:
        _print_json(display.reconciliation_as_dict(summary))
    else:
        display.print_reconciliation(out, summary)
    if not summary.ok:
        raise typer.Exit(1)


@app.command(epilog=_example("headrace check"))
def check(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Try all that a run needs without running: sources, database, model; exit code 3 if it is not ready."""
    from pipelines.check import check as try_all

    results = try_all(load_config(config))
    _print_json([display.check_as_dict(result) for result in results]) if as_json else display.print_checks(
        out, results
    )
    if not all(result.ok for result in results):
        raise typer.Exit(3)


@app.command(epilog=_example("headrace models"))
def models(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """The configured embedding model and the pinned ones: what this machine would run them with, and why."""
    from transforms.embedders.describe import describe_models

    settings = load_config(config) if config.exists() or config != DEFAULT_CONFIG else Config()
    rows = describe_models(settings.model)
    if as_json:
        _print_json(rows)
        return
    for row in rows:
        display.print_facts(out, row)


@app.command(epilog=_example("headrace export vectors.parquet"))
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


@app.command(epilog=_example("headrace bench --full --data ../payloads"))
def bench(
    full: Annotated[bool, typer.Option("--full", help="Every figure: hours on two cores.")] = False,
    data: Annotated[
        Path | None, typer.Option(help="Folder of real payloads: adds quality and the whole job to --full.")
    ] = None,
    as_json: JsonOption = False,
    more: Annotated[
        list[str] | None,
        typer.Argument(help="Options of benchmarks/suite.py, behind `--`.", show_default=False),
    ] = None,
) -> None:
    """Measure this machine's ceiling, every engine beside its peers, and growth; needs a checkout.

    What was measured before is kept; stopped at any moment, the next start goes on.
    """
    from runners.bench import run_benchmarks

    arguments = ["--full"] * full + ["--as-json"] * as_json
    if data is not None:
        arguments += ["--data", str(data.resolve())]
    raise typer.Exit(run_benchmarks([*arguments, *(more or [])]))


@app.command(epilog=_example("headrace webhooks --config team.toml"))
def webhooks(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Take deliveries of GitHub and Jira until Ctrl-C, and keep what they name for `headrace watch` to look at.

    Takes those of sources with a webhook_secret, at the address it prints; its own health is at /healthz.
    """
    settings = load_config(config)
    try:
        from runners.webhooks import serve
    except ModuleNotFoundError as error:
        raise SetupError(f"{error.name} is not installed: run pip install 'headrace[webhooks]'") from None
    with _interruptible():
        serve(settings, lambda line: out.print(line, markup=False, highlight=False, soft_wrap=True))


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends a run between two transactions; say so, and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        err.print("headrace: interrupted; what was stored is consistent, run again to go on", style="yellow")
        raise typer.Exit(130) from None


def _complain(reason: str) -> None:
    err.print(f"headrace: {reason}", style="red", markup=False, highlight=False, soft_wrap=True)


def _interrupt(signum: int, frame: object) -> NoReturn:
    # A connection that is cut off in mid-command warns that it cannot roll back; the server does.
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    raise KeyboardInterrupt


def main() -> None:
    """Entry point: a mistake of the user's is one line on stderr and exit code 1, never a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    # Beam says so at import wherever its Google Cloud extra is not installed.
    logging.getLogger().addFilter(lambda line: not line.getMessage().startswith("apitools not found"))
    # It logs the traceback of a failing step, and raises it as well: one line of ours says it.
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    for stop in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs start with SIGINT ignored
        signal.signal(stop, _interrupt)
    try:
        app(standalone_mode=True)
    except PipelineError as error:
        _complain(str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
