"""What Dataflow is told, what is refused before it is told anything, and the whole graph as it would be submitted."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import apache_beam as beam
import pytest
from apache_beam.io.localfilesystem import LocalFileSystem
from apache_beam.options.pipeline_options import PipelineOptions
from rich.console import Console

from pipelines import polls
from pipelines.ingest import build
from runners import dataflow
from runners.progress_bar import run_progress
from runners.run import run
from runners.slices import job_for
from runners.targets import HERE, Target
from schemas.config import Config, Postgres
from schemas.engines import Dataflow
from schemas.errors import AccessRefused, BadConfig, JobRefused, MissingTool
from schemas.sources import ExportSource, GitSource, JiraSource
from tests.pipelines.test_graph import GRAPH
from tests.runners.world import Headrace, issue, rows_of, run_quietly, write_export
from transforms.embedders.models import space_of
from transforms.postgres import Store

IMAGE = "europe-west4-docker.pkg.dev/my-project/me/headrace:1"
GPU = "type:nvidia-tesla-t4;count:1;install-nvidia-driver"
SETTINGS = Dataflow(
    project="my-project",
    region="europe-west4",
    temp_location="gs://my-bucket/headrace/",
    worker_image=IMAGE,
    machine_type="n1-standard-4",
    max_workers=7,
    service_account="worker@my-project.iam.gserviceaccount.com",
    embed_accelerator=GPU,
    embed_min_ram_gib=12,
)
CONFIG = Config(
    postgres=Postgres(dsn="env:HEADRACE_DSN"),
    dataflow=SETTINGS,
    sources=(ExportSource(type="export", name="tickets", paths=("a.jsonl",)),),
)

JIRA = JiraSource(type="jira", name="tickets", site_url="https://jira.example")
GIT = GitSource(type="git", name="code", url="https://git.example/code.git")

KEPT = {re.split("[/ ]", line)[0] for line in GRAPH.read_text(encoding="utf-8").splitlines()}
"""Names of our own steps, as `tests/pipelines/test_graph.py` keeps them."""

TABLE = {
    "project": '"my-project"',
    "region": '"europe-west4"',
    "temp_location": '"gs://my-bucket/headrace"',
    "worker_image": f'"{IMAGE}"',
}
REFUSED = [
    ("project", '"p"', "dataflow.project: expected the id of a Google Cloud project"),
    ("project", '"My-Project"', "dataflow.project: expected the id of a Google Cloud project"),
    ("region", '"europe-west4-a"', 'dataflow.region: expected a region such as "europe-west4", not a zone'),
    ("temp_location", '"gs://b/x"', "dataflow.temp_location: expected a folder of a bucket"),
    ("temp_location", '"gs://my-bucket"', "dataflow.temp_location: expected a folder of a bucket"),
    ("temp_location", '"gs://My_Bucket/x"', "dataflow.temp_location: expected a folder of a bucket"),
    ("temp_location", '"/tmp/x"', "dataflow.temp_location: expected a folder of a bucket"),
    ("worker_image", '"headrace"', "dataflow.worker_image: expected an image with its registry and tag"),
    ("worker_image", None, "dataflow.worker_image: Field required"),
    ("machine_type", '"large"', "dataflow.machine_type: expected a machine type"),
    ("max_workers", "0", "dataflow.max_workers: "),
    ("service_account", '"me"', "dataflow.service_account: expected the address of a service account"),
    ("embed_accelerator", '"t4"', "dataflow.embed_accelerator: expected Dataflow's own words"),
]


@pytest.mark.parametrize(("key", "value", "said"), REFUSED)
def test_a_wrong_setting_is_one_line(
    key: str, value: str | None, said: str, headrace: Headrace, tmp_path: Path
) -> None:
    table = {**TABLE, key: value}
    lines = "".join(f"{name} = {text}\n" for name, text in table.items() if text is not None)
    config = tmp_path / "headrace.toml"
    config.write_text(f"[dataflow]\n{lines}")
    code, out, err = headrace("run", "-c", config, "--runner", "dataflow")
    assert (code, out) == (1, "")
    assert said in err
    assert err.count("\n") == 1


def test_without_a_table_the_line_names_what_belongs_into_it() -> None:
    with (
        pytest.raises(BadConfig, match=r"needs a \[dataflow\] table with project, region, temp_location and"),
        dataflow.opened(Config()),
    ):
        pytest.fail("it cannot be open")


def test_the_embedded_postgres_is_refused_because_workers_cannot_reach_it() -> None:
    with (
        pytest.raises(BadConfig, match=r"postgres.dsn is not set: workers of Dataflow cannot reach"),
        dataflow.opened(Config(dataflow=SETTINGS)),
    ):
        pytest.fail("it cannot be open")


@pytest.mark.skipif(dataflow._has_extra(), reason="the [dataflow] extra is installed")
def test_without_the_extra_the_line_says_how_to_install_it() -> None:
    with (
        pytest.raises(MissingTool, match=r"run pip install 'headrace\[dataflow\]'"),
        dataflow.opened(CONFIG),
    ):
        pytest.fail("it cannot be open")


@pytest.mark.skipif(not dataflow._has_extra(), reason="the [dataflow] extra is not installed")
def test_without_an_account_the_line_says_how_to_have_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with (
        pytest.raises(AccessRefused, match=r"run gcloud auth application-default login, or let"),
        dataflow.opened(CONFIG),
    ):
        pytest.fail("it cannot be open")


class _Elsewhere(LocalFileSystem):  # type: ignore[misc]
    """Files that are reached by Beam's filesystems alone, as a bucket's are."""

    root: Path

    @classmethod
    def scheme(cls) -> str:
        return "elsewhere"

    def _local(self, url: str) -> str:
        return str(self.root / url.removeprefix("elsewhere://"))

    def create(self, path: str, *arguments: Any, **more: Any) -> Any:
        Path(self._local(path)).parent.mkdir(parents=True, exist_ok=True)
        return super().create(self._local(path), *arguments, **more)

    def open(self, path: str, *arguments: Any, **more: Any) -> Any:
        return super().open(self._local(path), *arguments, **more)

    def match(self, patterns: list[str], limits: list[int] | None = None) -> Any:
        return super().match([self._local(pattern) for pattern in patterns], limits)

    def delete(self, paths: list[str]) -> None:
        super().delete([self._local(path) for path in paths])


def test_pages_spooled_to_a_filesystem_of_beam_give_the_same_rows_and_leave_no_file(
    make_config: Callable[..., Config], database: Store, tmp_path: Path
) -> None:
    _Elsewhere.root = tmp_path / "elsewhere"
    config = make_config(write_export(tmp_path / "a.jsonl", [issue(number) for number in range(20)]))
    target = Target(HERE.options, spools=3, spool_dir="elsewhere://bucket/spools")
    with run_progress(Console(quiet=True), visible=False) as bar:
        there = run(config, bar, target)
    rows = rows_of(database, config)
    with database.connect() as connection:
        connection.execute("TRUNCATE documents, source_cursors, ai_usage_tracking, runs CASCADE")
    assert run_quietly(config).totals == there.totals == {"new": 20}
    assert rows == rows_of(database, config)
    assert (tmp_path / "elsewhere" / "bucket" / "spools").is_dir()
    assert [path for path in (tmp_path / "elsewhere").rglob("*") if path.is_file()] == []


def _submitted(settings: Dataflow, *more: str) -> Any:
    """The graph and the job's environment, as Beam would send them; nothing is sent."""
    if not dataflow._has_extra():
        pytest.skip("the [dataflow] extra is not installed: run `make test-dataflow`")
    config = CONFIG.model_copy(update={"dataflow": settings})
    job = job_for(config, config.sources[0], Store("env:HEADRACE_DSN"), space_of(config.model), UUID(int=1))
    target = dataflow.target_of(settings)
    given = PipelineOptions([*target.options, "--dry_run=True", "--no_auth", "--job_name=test", *more])
    pipeline = beam.Pipeline(options=given)
    build(pipeline, [f"{target.spool_dir}/{n}.pages" for n in range(2)], job, target.embed_hints)
    return _as_sent(pipeline)


def _as_sent(pipeline: beam.Pipeline) -> Any:
    """The graph, and the job's environment."""
    from apache_beam.runners.dataflow.internal import apiclient

    submitted = pipeline.run().job
    environment = apiclient.Environment(
        packages=[],
        options=submitted.options,
        environment_version="8",
        proto_pipeline_staged_url="",
        proto_pipeline=submitted.proto_pipeline,
    )
    return submitted.proto_pipeline, environment.proto


def _hinted(graph: Any) -> set[str]:
    """Steps in an environment with hints."""
    parts = graph.components
    return {
        step.unique_name
        for step in parts.transforms.values()
        if step.environment_id and parts.environments[step.environment_id].resource_hints
    }


def test_the_embedding_step_alone_asks_for_the_accelerator() -> None:
    graph, _ = _submitted(SETTINGS)
    hinted = _hinted(graph)
    assert hinted
    assert {name.partition("/")[0] for name in hinted} == {"Embed"}
    hints = [dict(one.resource_hints) for one in graph.components.environments.values() if one.resource_hints]
    assert hints == [
        {
            "beam:resources:accelerator:v1": GPU.encode(),
            "beam:resources:min_ram_bytes:v1": str(12 * 1024**3).encode(),
        }
    ]


def test_without_hints_all_steps_share_an_environment() -> None:
    graph, proto = _submitted(
        SETTINGS.model_copy(update={"embed_accelerator": None, "embed_min_ram_gib": None})
    )
    assert _hinted(graph) == set()
    assert len(proto.worker_pools[0].sdk_harness_container_images) == 1


def test_the_job_has_our_steps_image_machines_and_account() -> None:
    graph, proto = _submitted(SETTINGS)
    steps = {step.unique_name.partition("/")[0] for step in graph.components.transforms.values()}
    assert {"Read", "Redact", "Moderate", "Embed", "WritePgvector", "WriteUsage"} <= KEPT <= steps
    pool = proto.worker_pools[0]
    assert {image.container_image for image in pool.sdk_harness_container_images} == {IMAGE}
    assert pool.machine_type == "n1-standard-4"
    assert pool.autoscaling_settings.max_num_workers == 7
    assert proto.service_account_email == SETTINGS.service_account
    assert proto.version["job_type"] == "FNAPI_BATCH"
    assert "no_use_multiple_sdk_containers" in proto.experiments


def _followed(*more: str) -> Any:
    """The graph and the job's environment of a watch; nothing is sent."""
    if not dataflow._has_extra():
        pytest.skip("the [dataflow] extra is not installed: run `make test-dataflow`")
    config = CONFIG.model_copy(update={"sources": (JIRA, GIT), "postgres": Postgres()})
    space = space_of(config.model)
    jobs = [
        job_for(config, source, Store("env:HEADRACE_DSN"), space, UUID(int=1)) for source in config.sources
    ]
    given = [*dataflow.target_of(SETTINGS).options, "--dry_run=True", "--no_auth", "--streaming", *more]
    pipeline = beam.Pipeline(
        options=PipelineOptions([*given, f"--job_name={dataflow.watch_job_name(config)}"])
    )
    polls.build(pipeline, jobs, config.data_dir)
    return _as_sent(pipeline)


def test_a_watch_is_one_streaming_job_with_a_branch_for_each_source() -> None:
    graph, proto = _followed()
    assert proto.version["job_type"] == "FNAPI_STREAMING"
    assert "enable_streaming_engine" in proto.experiments
    steps = list(graph.components.transforms.values())
    for source in ("tickets", "code"):
        assert {f"{source}/Poll", f"{source}/Embed", f"{source}/WritePgvector"} <= {
            "/".join(step.unique_name.split("/")[:2]) for step in steps
        }
    # What a source gave is stored when its bundle ends, so nothing may part a poll from its sinks.
    shuffled = [step.unique_name for step in steps if "group_by_key" in step.spec.urn]
    assert shuffled == []
    assert len(proto.worker_pools[0].sdk_harness_container_images) == 1


def test_a_watch_has_a_name_that_dataflow_takes_and_no_two_clients_share() -> None:
    clients = ["acme", "Acme", "a.c_m-e", "9-9", "x" * 100, "x" * 99]
    names = [
        dataflow.watch_job_name(CONFIG.model_copy(update={"client": client, "postgres": Postgres()}))
        for client in clients
    ]
    assert all(re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name) for name in names)
    assert len(set(names)) == len(clients)


@pytest.mark.parametrize("url", [None, "/srv/git/code", "file:///srv/git/code"])
def test_a_folder_of_this_machine_is_not_followed_from_elsewhere(url: str | None) -> None:
    source = GIT.model_copy(update={"url": url, "path": None if url else Path("code")})
    with pytest.raises(BadConfig, match="source 'code' is on this machine, where Dataflow's workers are not"):
        dataflow.check_followed(CONFIG.model_copy(update={"sources": (JIRA, source)}))
    dataflow.check_followed(CONFIG.model_copy(update={"sources": (JIRA, GIT)}))


def test_what_google_cloud_refuses_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    if not dataflow._has_extra():
        pytest.skip("the [dataflow] extra is not installed: run `make test-dataflow`")
    from apache_beam.runners.dataflow.internal.apiclient import DataflowJobAlreadyExistsError
    from google.api_core.exceptions import Forbidden

    monkeypatch.setattr(dataflow, "_check_account", lambda: None)
    for error, said in (
        (
            Forbidden("Dataflow API has not been used\nin project my-project"),
            "^Google Cloud refused: 403 [^\n]*$",
        ),
        (DataflowJobAlreadyExistsError("There is already active job named a."), "^Dataflow: .* -- --update$"),
    ):
        with pytest.raises(JobRefused, match=said), dataflow.opened(CONFIG):
            raise error


def test_what_follows_the_dashes_reaches_the_job() -> None:
    _, proto = _submitted(SETTINGS, "--streaming", "--max_num_workers=3")
    assert proto.version["job_type"] == "FNAPI_STREAMING"
    assert "enable_streaming_engine" in proto.experiments
    assert proto.worker_pools[0].autoscaling_settings.max_num_workers == 3
