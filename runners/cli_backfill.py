"""`headrace plan` and `headrace backfill`. Each imports what it needs when it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from runners import display
from runners.cli_shared import (
    DEFAULT_CONFIG,
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

if TYPE_CHECKING:
    from pipelines.backfill import Backfill

app = typer.Typer()

ExactOption = Annotated[bool, typer.Option("--exact", help="Read and cut everything: no estimate is left.")]
SampleOption = Annotated[int, typer.Option(min=100, help="Documents of each source that are cut.")]


@app.command(epilog=example("headrace plan --sample 5000"))
def plan(
    config: ConfigOption = DEFAULT_CONFIG,
    exact: ExactOption = False,
    sample: SampleOption = 2000,
    as_json: JsonOption = False,
) -> None:
    """What loading all sources would take: documents, tokens, dollars, hours, memory, disk. Nothing is embedded.

    Sources are read from where the next run would. Files and repositories are read whole (200,000 records at the
    most), Jira and GitHub as far as the sample goes; of what was read, the largest documents and a random part of the
    others are cut.
    """
    from pipelines.plan import make_plan
    from runners.display_plan import plan_as_dict, print_plan
    from runners.progress_bar import run_progress

    settings = load_config(config)
    with interruptible(), run_progress(err, visible=err.is_terminal and not as_json) as bar:
        made = make_plan(settings, None if exact else sample, bar.reading, bar.waiting)
    print_json(plan_as_dict(made)) if as_json else print_plan(out, made)


@app.command(
    epilog=example("headrace backfill --exact"),
    context_settings={"allow_extra_args": True, "ignore_unknown_options": False},
)
def backfill(
    context: typer.Context,
    config: ConfigOption = DEFAULT_CONFIG,
    runner: RunnerOption = Runner.DIRECT,
    exact: ExactOption = False,
    sample: SampleOption = 2000,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Go on whatever it takes.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Load all sources under a plan, then build the indexes: as `run`, for years of history.

    Refuses to begin where there is no room for the indexes, and stops where more is embedded than planned and
    `backfill.max_over_plan` allow. Stopped at any moment, the next start goes on under the same plan. Beam options
    may follow `--`.
    """
    from runners.backfill import backfill as load
    from runners.progress_bar import run_progress

    settings = load_config(config)
    with (
        interruptible(),
        run_progress(err, visible=err.is_terminal and not as_json) as bar,
        opened(settings, runner, context.args) as target,
    ):
        summary = load(settings, bar, _say_plan, target, None if exact else sample, yes)
    print_json(display.summary_as_dict(summary)) if as_json else display.print_summary(out, summary)
    for source, reason in summary.failures.items():
        complain(display.failure_line(source, reason))
    if not summary.ok:
        raise typer.Exit(1)


def _say_plan(begun: Backfill) -> None:
    from runners.display_plan import interval

    limit = "no limit" if begun.max_tokens is None else f"stops beyond {begun.max_tokens:,} tokens"
    line = f"goes on with the backfill planned at {begun.planned_at:%Y-%m-%d %H:%M} UTC; {limit}"
    if begun.plan is not None:
        local, remote = begun.plan.local, begun.plan.remote
        line = f"planned: {begun.plan.documents:,} documents, {interval(begun.plan.tokens)} tokens"
        if local is not None and local.machine_hours is not None:
            line += f", {local.machine_hours:,.2f} machine hours"
        if remote is not None:
            line += f", {display.dollars(remote.usd_high)} at most by {remote.integration}"
        line += f"; {limit}"
    err.print(f"headrace: {line}", markup=False, highlight=False, soft_wrap=True)
