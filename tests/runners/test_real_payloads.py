"""Every real payload beside the checkout goes through the whole pipeline and is accounted for.

The engine is a stand-in that makes a vector of each text's own tokens at once: what is proved here is that no record
is lost on its way, which takes minutes less without the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from benchmarks.stand_in import no_model
from runners.run import RunSummary
from schemas.config import Config
from schemas.outcomes import Outcome
from schemas.sources import ExportSource
from tests.runners.world import run_quietly
from transforms.postgres import Store

pytestmark = pytest.mark.slow

FILES = {
    "git": ("git/*.jsonl", "git/*.jsonl.gz"),
    "github": ("github/*.jsonl.gz",),
    "jira": ("jira/jira_v2_tidev_sample.jsonl", "jira/jira_v3_adf_issues.jsonl", "jira/jira_webhooks.jsonl"),
    "jira-agile": ("jira/jira_agile_api_devlake.jsonl",),
    "jira-flat": ("jira/jira_wiki_storypoint_issues.jsonl.gz",),
}
RECORDS_AT_LEAST = {"git": 17_503, "github": 14_000, "jira": 217, "jira-agile": 33, "jira-flat": 5404}


@pytest.fixture
def run_with_stand_in(
    make_config: Callable[..., Config],
) -> Iterator[Callable[..., RunSummary]]:
    """Runs some files with the stand-in for the model."""

    def run(name: str, paths: Sequence[str]) -> RunSummary:
        source = ExportSource(type="export", name=name, paths=tuple(paths))
        return run_quietly(make_config().model_copy(update={"sources": (source,)}))

    with no_model():
        yield run


@pytest.mark.parametrize("name", FILES)
def test_every_record_is_accounted_for(
    name: str, shared_data: Path, run_with_stand_in: Callable[..., RunSummary], database: Store
) -> None:
    paths = [str(shared_data / pattern) for pattern in FILES[name]]
    first = run_with_stand_in(name, paths)
    assert first.totals.total() >= RECORDS_AT_LEAST[name]
    assert first.totals[Outcome.DEAD_LETTERED] == 0
    assert first.tokens_truncated == 0
    with database.connect() as connection:
        stored = connection.execute(
            "SELECT count(*) FILTER (WHERE deleted_at IS NULL), count(*) FROM documents"
        ).fetchone()
        assert stored is not None
        assert stored[0] == first.totals[Outcome.NEW] - first.totals[Outcome.DELETED]
        wrong = connection.execute(
            f"SELECT count(*) FROM indexed_documents AS i WHERE chunks <>"
            f" (SELECT count(*) FROM chunks_{first.space.space_id} AS c WHERE c.document_id = i.document_id)"
        ).fetchone()
    assert wrong == (0,)

    second = run_with_stand_in(name, paths)
    assert second.totals.total() == first.totals.total()
    assert second.totals[Outcome.NEW] == second.totals[Outcome.CHANGED] == second.usage.inputs == 0
