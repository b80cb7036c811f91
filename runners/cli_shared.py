"""What all commands share: options, consoles, and how they end."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import orjson
import typer

from runners import display
from runners.targets import Runner

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", envvar="HEADRACE_CONFIG", help="The TOML file.", show_default=True)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
ClientOption = Annotated[
    str | None, typer.Option("--client", help="Whose data; the file's client if not given.")
]
RunnerOption = Annotated[
    Runner,
    typer.Option(
        "--runner",
        # In brackets the names of the tables would be markup, and not be shown.
        help="Where the pipeline runs: in this process, by Prism, on a Flink cluster or on Google Cloud Dataflow."
        " Tables of the file tune them: prism (parallelism), flink (url, worker_pool, parallelism,"
        " checkpoint_interval_s), dataflow (worker_image, machine_type, max_workers, parallelism,"
        " embed_accelerator).",
    ),
]
DEFAULT_CONFIG = Path("headrace.toml")

out = display.console()
err = display.console(stderr=True)


def example(line: str) -> str:
    return f"Example: {line}"


def print_json(value: object) -> None:
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode() + "\n")


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C ends a run between two transactions; say so, and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        err.print("headrace: interrupted; what was stored is consistent, run again to go on", style="yellow")
        raise typer.Exit(130) from None


def complain(reason: str) -> None:
    err.print(f"headrace: {reason}", style="red", markup=False, highlight=False, soft_wrap=True)
