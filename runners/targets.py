"""Where a slice's pipeline is run: in this process, by Prism, on a Flink cluster, or on Dataflow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from schemas.config import Config
from schemas.errors import BadConfig, PipelineError


class Runner(StrEnum):
    DIRECT = "direct"
    PRISM = "prism"
    FLINK = "flink"
    DATAFLOW = "dataflow"


@dataclass(frozen=True, slots=True)
class Target:
    """What a runner must be told, and how a slice's pages are laid out for it.

    Args:
        options: of Beam.
        spools: files that the pages are spread over; each is read by one worker.
        spool_dir: where workers can read them, a folder or a URL of Beam's filesystems; None takes this machine's
            folder for temporary files.
        progress: says how a job stands, where its workers are not in this process.
        lost_job: says whether a job that failed is gone together with what its cluster knew, and returns once that
            can take another; None where there is no cluster to lose it.
        without_workers: says why a job never had a worker, and ends it, None while it may have one; told whether to
            look at a job that has ended. None where workers come with the job.
        take_over: ends what a killed process left of the client's jobs, and says so; called under the client's lock,
            before the first job is submitted. None where jobs end with their process.
        embed_hints: Beam's resource hints for the embedding step.
    """

    options: tuple[str, ...]
    spools: int = 1
    spool_dir: Path | str | None = None
    progress: Callable[[], str] | None = None
    lost_job: Callable[[], bool] | None = None
    without_workers: Callable[[bool], PipelineError | None] | None = None
    take_over: Callable[[], str | None] | None = None
    embed_hints: Mapping[str, str] = field(default_factory=dict)

    def plus(self, options: Sequence[str]) -> Target:
        """With options of the user's, which win."""
        return replace(self, options=(*self.options, *options))


HERE = Target(("--runner=FnApiRunner",))
"""This process. Named outright: Beam's own "DirectRunner" first tries to download another one."""


@contextmanager
def opened(config: Config, runner: Runner, options: Sequence[str] = ()) -> Iterator[Target]:
    """A target, with all that must run for it running for the length of the block.

    Args:
        options: of Beam, given behind `--`.
    Raises:
        BadConfig: `options` are not to be passed on.
        SetupError: something is missing for it; said before anything is submitted.
    """
    check_options(options, runner)
    with _opened(config, runner) as target:
        yield target.plus(options)


def check_options(options: Sequence[str], runner: Runner) -> None:
    """Refuse what Beam would pass over without a word, and a name by which headrace would not know its job on Flink.

    Raises:
        BadConfig: the first is no option, or one is the job's name.
    """
    if runner is Runner.FLINK and any(one.partition("=")[0] == "--job_name" for one in options):
        raise BadConfig(
            "--job_name is headrace's own on Flink, where it knows its jobs by their names: leave it out"
        )
    if options and not options[0].startswith("--"):
        raise BadConfig(
            f"{options[0][:100]!r} is no option of Beam's, which begin with two dashes and follow --: the file is"
            " named by --config"
        )


def _opened(config: Config, runner: Runner) -> AbstractContextManager[Target]:
    match runner:
        case Runner.DIRECT:
            return nullcontext(HERE)
        case Runner.PRISM:
            from runners import prism

            return prism.opened(config)
        case Runner.FLINK:
            from runners import flink

            return flink.opened(config)
        case Runner.DATAFLOW:
            from runners import dataflow

            return dataflow.opened(config)
