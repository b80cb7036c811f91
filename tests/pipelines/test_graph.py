"""A running job can be updated: its steps keep their labels, and what flows between them its coders.

Beam matches the steps of a job's new version with those of the old one by their labels, and reads what is between
them with the coders it was written with (https://cloud.google.com/dataflow/docs/guides/updating-a-pipeline).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.pipeline_context import PipelineContext

from pipelines import polls
from pipelines.ingest import IngestJob, build
from schemas.config import Cache, Chunking, Model, Privacy
from schemas.sources import ExportSource, JiraSource, Source
from transforms.embedders.models import space_of
from transforms.postgres import Store

BEAMS_OWN = re.compile(r"core\.py:\d+")
"""A line of Beam's, in the label of a lambda of its own."""
GRAPH = Path(__file__).with_name("ingest_graph.txt")


POLLS = ["Begin [None] BytesCoder", "Poll [None] PickledCoder"]
"""What a streaming job has for each source in place of `Read`; its state has a coder that `test_polls.py` holds."""


def _job(source: Source) -> IngestJob:
    model = Model()
    return IngestJob(
        source,
        "acme",
        UUID(int=1),
        Store("nowhere"),
        space_of(model),
        model,
        Chunking(),
        Cache(),
        Privacy(),
    )


def graph(build: Callable[[beam.Pipeline], None]) -> list[str]:
    """A line for each output of each step that is made of no others: label, tag, coder."""
    pipeline = beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"]))
    build(pipeline)
    proto = pipeline.to_runner_api()
    coders = PipelineContext(proto.components).coders
    collections = proto.components.pcollections
    return sorted(
        f"{BEAMS_OWN.sub('core.py', step.unique_name)} [{tag}] {coders.get_by_id(collections[name].coder_id)}"
        for step in proto.components.transforms.values()
        if not step.subtransforms
        for tag, name in step.outputs.items()
    )


def ingest_graph() -> list[str]:
    """Of a slice."""
    source = ExportSource(type="export", name="tickets", paths=("nowhere",))
    return graph(lambda pipeline: build(pipeline, [Path("0.pages"), Path("1.pages")], _job(source)))


def test_steps_and_coders_are_those_that_are_kept() -> None:
    """Where the change is meant: `python -m tests.pipelines.test_graph`, and a line in the changelog."""
    assert ingest_graph() == GRAPH.read_text(encoding="utf-8").splitlines()


def test_a_streaming_job_has_the_same_for_each_of_its_sources_below_its_name() -> None:
    names = ("tickets", "team/wiki")
    sources = [JiraSource(type="jira", name=name, site_url="http://127.0.0.1:1") for name in names]
    found = graph(lambda pipeline: polls.build(pipeline, [_job(one) for one in sources], Path("nowhere")))
    kept = [line for line in GRAPH.read_text(encoding="utf-8").splitlines() if not line.startswith("Read/")]
    assert found == sorted(f"{name}/{line}" for name in names for line in [*POLLS, *kept])


if __name__ == "__main__":
    GRAPH.write_text("\n".join(ingest_graph()) + "\n", encoding="utf-8")
    sys.exit(0)
