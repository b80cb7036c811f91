"""A backfill: planned, loaded slice by slice under its plan, and indexed at the end."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from extractors.read import build_extractor
from pipelines.backfill import Backfill, begin
from pipelines.plan import make_plan
from pipelines.room import build_index
from pipelines.volume import SAMPLE
from runners.progress_bar import RunProgress
from runners.run import RunSummary, run
from runners.slices import BuildExtractor, check_ready
from runners.targets import HERE, Target
from schemas.config import Config
from transforms.embedders.models import space_of
from transforms.postgres import open_store

LEAST_SLICE = 200
SLICES_OF_A_PLAN = 20
"""A plan is left by a slice at the most, so that a small one is not left by far."""


def backfill(
    config: Config,
    bar: RunProgress,
    told: Callable[[Backfill], None],
    target: Target = HERE,
    sample: int | None = SAMPLE,
    without_limit: bool = False,
    build: BuildExtractor = build_extractor,
) -> RunSummary:
    """Load everything that the sources have and is not stored, then build the indexes.

    Stopped at any moment, the next start goes on under the same plan.

    Args:
        told: of the plan, before anything is embedded.
        sample: documents of a source that are cut for the plan; None for all.
        without_limit: go on whatever it takes.
    Raises:
        PlanExceeded: more was embedded than planned; what was stored stays.
        NotEnoughMemory, NoRoom: there is no room for the indexes; nothing was embedded.
        PipelineError: as `slices.run`.
    """
    bar.step("planning")
    check_ready(config)
    store, space = open_store(config), space_of(config.model)
    plan = partial(make_plan, config, sample, bar.reading, bar.waiting, build)
    with store.connect() as connection:
        begun = begin(connection, config, space, plan, without_limit)
    told(begun)
    documents = begun.plan.documents if begun.plan else 0
    summary = run(
        _cut_finer(config, documents), bar, target, build, begun.check, partial(build_index, config=config)
    )
    if summary.ok:
        with store.connect() as connection:
            begun.finish(connection)
    return summary


def _cut_finer(config: Config, documents: int) -> Config:
    """Slices of which a load of so many documents has some twenty, at the least."""
    most = max(LEAST_SLICE, documents // SLICES_OF_A_PLAN)
    slices = config.slices.model_copy(update={"max_documents": min(config.slices.max_documents, most)})
    return config.model_copy(update={"slices": slices})
