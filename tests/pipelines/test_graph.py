"""A running job can be updated: its steps keep their labels, and what flows between them its coders.

Beam matches the steps of a job's new version with those of the old one by their labels, and reads what is between
them with the coders it was written with (https://cloud.google.com/dataflow/docs/guides/updating-a-pipeline).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from uuid import UUID

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.pipeline_context import PipelineContext

from pipelines.ingest import IngestJob, build
from schemas.config import Cache, Chunking, Model, Privacy
from schemas.sources import ExportSource
from transforms.embedders.models import space_of
from transforms.postgres import Store

BEAMS_OWN = re.compile(r"core\.py:\d+")
"""A line of Beam's, in the label of a lambda of its own."""
GRAPH = Path(__file__).with_name("ingest_graph.txt")


def graph() -> list[str]:
    """A line for each output of each step that is made of no others: label, tag, coder."""
    source = ExportSource(type="export", name="tickets", paths=("nowhere",))
    model = Model()
    job = IngestJob(
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
    pipeline = beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"]))
    build(pipeline, [Path("0.pages"), Path("1.pages")], job)
    proto = pipeline.to_runner_api()
    coders = PipelineContext(proto.components).coders
    collections = proto.components.pcollections
    return sorted(
        f"{BEAMS_OWN.sub('core.py', step.unique_name)} [{tag}] {coders.get_by_id(collections[name].coder_id)}"
        for step in proto.components.transforms.values()
        if not step.subtransforms
        for tag, name in step.outputs.items()
    )


def test_steps_and_coders_are_those_that_are_kept() -> None:
    """Where the change is meant: `python -m tests.pipelines.test_graph`, and a line in the changelog."""
    assert graph() == GRAPH.read_text(encoding="utf-8").splitlines()


if __name__ == "__main__":
    GRAPH.write_text("\n".join(graph()) + "\n", encoding="utf-8")
    sys.exit(0)
