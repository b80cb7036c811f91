"""`headrace job`: what runs on the Flink cluster, and its end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runners import display
from runners.cli_shared import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    example,
    interruptible,
    out,
    print_json,
)
from schemas.config import load_config
from schemas.engines import Flink

app = typer.Typer(no_args_is_help=True, help="Jobs on the cluster that the table flink of the file names.")

JobArgument = Annotated[str, typer.Argument(help="The job's id, as `headrace job list` has it.")]
END_TIMEOUT_S = 120.0


def _url(config: Path) -> str:
    return (load_config(config).flink or Flink()).url


@app.command("list", epilog=example("headrace job list --json"))
def list_jobs(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """All jobs that the cluster remembers, the newest first, with what each has done."""
    from runners.flink_jobs import job_rows

    rows = job_rows(_url(config))
    print_json(rows) if as_json else display.print_rows(out, rows, "The cluster has had no job.")


@app.command(epilog=example("headrace job cancel 3f1c…"))
def cancel(job_id: JobArgument, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """End a job at once. What it stored is consistent; the next run goes on from its last slice."""
    from runners import flink_rest

    url = _url(config)
    with interruptible():
        flink_rest.cancel(url, job_id)
        ended = flink_rest.wait(url, job_id, END_TIMEOUT_S)
    out.print(f"job {job_id}: {ended.state}")


@app.command(epilog=example("headrace job savepoint 3f1c…"))
def savepoint(job_id: JobArgument, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Write a job's state, and say where; the job goes on."""
    from runners import flink_rest

    with interruptible():
        place = flink_rest.savepoint(_url(config), job_id)
    out.print(place, markup=False, highlight=False, soft_wrap=True)


@app.command(epilog=example("headrace job drain 3f1c…"))
def drain(job_id: JobArgument, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Let a job finish what it has read, end it, and say where its state is."""
    from runners import flink_rest

    url = _url(config)
    with interruptible():
        place = flink_rest.stop(url, job_id)
        ended = flink_rest.wait(url, job_id, END_TIMEOUT_S)
    out.print(f"job {job_id}: {ended.state}, {place}", markup=False, highlight=False, soft_wrap=True)
