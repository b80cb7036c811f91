"""The command line: commands that change something, and where it begins.

Each imports what it needs when it runs: a search should not wait for Beam.
"""

from __future__ import annotations

import logging
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NoReturn
from uuid import UUID

import typer

from runners import (
    cli_backfill,
    cli_budgets,
    cli_integrations,
    cli_jobs,
    cli_looks,
    cli_readers,
    cli_usage,
    display,
)
from runners.cli_looks import dead_letters
from runners.cli_shared import (
    DEFAULT_CONFIG,
    ClientOption,
    ConfigOption,
    JsonOption,
    RunnerOption,
    complain,
    err,
    example,
    interruptible,
    out,
    print_json,
)
from runners.targets import Runner, opened
from schemas.config import load_config
from schemas.errors import PipelineError, SetupError

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


@app.command(
    epilog=example("headrace run --config demo.toml"),
    context_settings={"allow_extra_args": True, "ignore_unknown_options": False},
)
def run(
    context: typer.Context,
    config: ConfigOption = DEFAULT_CONFIG,
    runner: RunnerOption = Runner.DIRECT,
    as_json: JsonOption = False,
) -> None:
    """Read what changed in every source, embed it, store it, bring the FAISS index up to date.

    Resumable: stopped at any moment, the next run goes on where it was. A source that cannot be read keeps no other
    from it; why is said at the end, with exit code 1. Beam options may follow `--`.
    """
    from runners.progress_bar import run_progress
    from runners.run import run as run_slices

    settings = load_config(config)
    with (
        interruptible(),
        run_progress(err, visible=err.is_terminal and not as_json) as bar,
        opened(settings, runner, context.args) as target,
    ):
        summary = run_slices(settings, bar, target)
    if as_json:
        print_json(display.summary_as_dict(summary))
    elif summary.ok or summary.totals:
        display.print_summary(out, summary)
    for source, reason in summary.failures.items():
        complain(display.failure_line(source, reason))
    if not summary.ok:
        raise typer.Exit(1)


def _duration(text: str) -> float:
    from runners.schedule import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@app.command(
    epilog=example("headrace watch --for 8h"),
    context_settings={"allow_extra_args": True, "ignore_unknown_options": False},
)
def watch(
    context: typer.Context,
    config: ConfigOption = DEFAULT_CONFIG,
    runner: RunnerOption = Runner.DIRECT,
    duration_s: Annotated[
        float | None,
        typer.Option("--for", parser=_duration, metavar="DURATION", help="End after 90s, 10m, 1h30m."),
    ] = None,
) -> None:
    """Follow every source until Ctrl-C or SIGTERM: each at its own interval, webhooks and reconciliations included.

    A source that fails is tried again, later each time, and holds up no other; `headrace status` shows how it stands.
    What changed is said on stderr. With --runner a streaming job polls the sources; Beam options may
    follow `--`.
    """
    from runners.streams import polled_by
    from runners.watch import watch as follow

    settings = load_config(config)
    try:
        with polled_by(settings, runner, context.args) as polls:
            follow(settings, _say, duration_s=duration_s, polls=polls)
    except KeyboardInterrupt:
        _say("stopped; what was stored is consistent")


def _say(line: str) -> None:
    now = datetime.now(UTC)
    err.print(f"{now:%H:%M:%S} {line}", markup=False, highlight=False, soft_wrap=True)


@app.command(epilog=example("headrace reconcile --source tickets --dry-run"))
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
    with interruptible(), run_progress(err, visible=err.is_terminal and not as_json) as bar:
        summary = reconcile_sources(settings, bar, name=source, force=force, dry_run=dry_run)
    if as_json:
        print_json(display.reconciliation_as_dict(summary))
    else:
        display.print_reconciliation(out, summary)
    if not summary.ok:
        raise typer.Exit(1)


@app.command(epilog=example("headrace forget old-tickets --dry-run"))
def forget(
    source: Annotated[str, typer.Argument(help="Its name, as it was configured.")],
    config: ConfigOption = DEFAULT_CONFIG,
    client: ClientOption = None,
    project: Annotated[
        str | None, typer.Option("--project", help="Only this Jira project or repository of it.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go; nothing is changed.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete all that is stored of a source, or of a part of it, that the configuration does not name any more.

    Nothing else does that. Configured again, it is read from its beginning.
    """
    from runners.forget import forget as erase
    from runners.forget import to_forget
    from runners.progress_bar import run_progress

    settings = load_config(config)
    of_client = client or settings.client
    held = to_forget(settings, of_client, source, project)
    if dry_run:
        print_json(display.holdings_as_dict(held)) if as_json else display.print_holdings(out, held)
        return
    if not yes:
        display.print_holdings(err, held)
        what = f"{source}, {project}" if project else source
        typer.confirm(f"Delete all of this, stored of {what} for client {of_client}?", abort=True, err=True)
    with interruptible(), run_progress(err, visible=err.is_terminal and not as_json) as bar:
        done = erase(settings, bar, of_client, source, project)
    if as_json:
        print_json(display.forgotten_as_dict(done))
    else:
        out.print(f"forgotten: {done.deleted:,} documents; FAISS index: {done.index.count:,} vectors")


@app.command(epilog=example("headrace webhooks --config team.toml"))
def webhooks(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Take deliveries of GitHub and Jira until Ctrl-C, and keep what they name for `headrace watch` to look at.

    Takes those of sources with a webhook_secret, at the address it prints; its own health is at /healthz.
    """
    settings = load_config(config)
    try:
        from runners.webhooks import serve
    except ModuleNotFoundError as error:
        raise SetupError(f"{error.name} is not installed: run pip install 'headrace[webhooks]'") from None
    with interruptible():
        serve(settings, lambda line: out.print(line, markup=False, highlight=False, soft_wrap=True))


@app.command(epilog=example("headrace bench --full --data ../payloads"))
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


@dead_letters.command("retry", epilog=example("headrace dead-letters retry"))
def dead_letters_retry(
    ids: Annotated[list[UUID] | None, typer.Argument(help="Which; all open ones if none is given.")] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    client: ClientOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put dead letters through the pipeline again; those that pass are stored and marked resolved."""
    from runners.progress_bar import run_progress
    from runners.retry import retry_dead_letters

    settings = load_config(config)
    with interruptible(), run_progress(err, visible=err.is_terminal and not as_json) as bar:
        counts = retry_dead_letters(settings, bar, client or settings.client, ids or None)
    print_json(counts) if as_json else display.print_retry(out, counts)


app.add_typer(cli_backfill.app)
app.add_typer(cli_looks.app)
app.add_typer(cli_usage.app)
app.add_typer(dead_letters, name="dead-letters")
app.add_typer(cli_jobs.app, name="job")
app.add_typer(cli_integrations.app, name="integrations")
app.add_typer(cli_budgets.app, name="budgets")
app.add_typer(cli_readers.app, name="readers")


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
    logging.getLogger().addFilter(lambda line: line.module != "portable_runner")
    for stop in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs start with SIGINT ignored
        signal.signal(stop, _interrupt)
    try:
        app(standalone_mode=True)
    except PipelineError as error:
        complain(str(error))
        sys.exit(1)
    except Exception as error:
        from transforms.postgres import is_refused, is_transient

        if is_refused(error):
            complain(f"the database: {error}: this command is for the role that owns the tables")
            sys.exit(1)
        if not is_transient(error):
            raise
        complain(
            f"the database went away ({type(error).__name__}): see whether the server is well, then run again"
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
