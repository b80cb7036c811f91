"""Tables of the configuration file that say where pipelines are run when not in this process."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from schemas.sections import Section

FLINK_VERSION = "1.19"
"""Of the jars that `make flink` fetches, for the cluster and for Beam's job server alike."""


def _is_address(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError('expected host:port, such as "127.0.0.1:50000"')
    return value


def _is_url(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError('expected an address such as "http://127.0.0.1:8081"')
    return value.rstrip("/")


def _matches(pattern: str, expected: str) -> AfterValidator:
    whole = re.compile(pattern)

    def check(value: str) -> str:
        if not whole.fullmatch(value):
            raise ValueError(f"expected {expected}")
        return value

    return AfterValidator(check)


Address = Annotated[str, AfterValidator(_is_address)]
Url = Annotated[str, AfterValidator(_is_url)]


class Prism(Section):
    """Beam's local runner in Go.

    Args:
        binary: of Prism; None takes the one that `make prism` builds.
        parallelism: files that a slice's pages are spread over, so that as many can be worked on at once.
    """

    binary: Path | None = None
    parallelism: int = Field(default=1, ge=1)


class Flink(Section):
    """A Flink cluster, and how jobs are submitted to it.

    Args:
        url: of the cluster's REST API.
        worker_pool: where a TaskManager finds its Python workers, seen from the TaskManager.
        version: of the cluster, major and minor; Beam's job server is made for one.
        job_server_jar: Beam's job server as one jar, which is sent with each job; None takes the jars that
            `make flink` fetches, which the cluster must have on its class path.
        job_server_sha256: what that one jar must be; hexadecimal.
        parallelism: task slots that a job takes.
        checkpoint_interval_s: how often a job's state is written.
        checkpoint_timeout_s: when a checkpoint is given up.
        spool_dir: folder that this process writes and all workers read, where they are on several machines.
    """

    url: Url = "http://127.0.0.1:8081"
    worker_pool: Address = "127.0.0.1:50000"
    version: str = Field(default=FLINK_VERSION, pattern=r"^[0-9]+\.[0-9]+$")
    job_server_jar: Path | None = None
    job_server_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    parallelism: int = Field(default=2, ge=1)
    checkpoint_interval_s: float = Field(default=10, gt=0)
    checkpoint_timeout_s: float = Field(default=600, gt=0)
    spool_dir: Path | None = None


Project = Annotated[
    str,
    _matches(
        r"(?:[a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]",
        'the id of a Google Cloud project such as "my-project": 6 to 30 of a-z, 0-9 and -, not its number',
    ),
]
Region = Annotated[
    str,
    _matches(r"[a-z]+-[a-z]+[0-9]{1,2}", 'a region such as "europe-west4", not a zone'),
]
BucketFolder = Annotated[
    str,
    _matches(
        r"gs://[a-z0-9][a-z0-9._-]{1,61}[a-z0-9](?:/[A-Za-z0-9._-]+)+/?",
        'a folder of a bucket such as "gs://my-bucket/headrace"; a bucket has 3 to 63 of a-z, 0-9, ., - and _',
    ),
    AfterValidator(lambda value: value.rstrip("/")),
]
Image = Annotated[
    str,
    _matches(
        r"[a-z0-9][a-z0-9.-]*(?::[0-9]+)?(?:/[a-z0-9._-]+)+(?::[A-Za-z0-9._-]{1,128}|@sha256:[0-9a-f]{64})",
        'an image with its registry and tag or digest, such as "eu-docker.pkg.dev/my-project/me/headrace:1"',
    ),
]
MachineType = Annotated[
    str, _matches(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)+", 'a machine type such as "n1-standard-4"')
]
ServiceAccount = Annotated[
    str,
    _matches(
        r"[a-z0-9-]+@[a-z0-9.-]+\.gserviceaccount\.com",
        'the address of a service account, such as "worker@my-project.iam.gserviceaccount.com"',
    ),
]
Accelerator = Annotated[
    str,
    _matches(
        r"type:[a-z0-9-]+;count:[1-9][0-9]?;install-nvidia-driver(?::[a-z0-9]+)?",
        'Dataflow\'s own words, such as "type:nvidia-tesla-t4;count:1;install-nvidia-driver"',
    ),
]


class Dataflow(Section):
    """Jobs on Google Cloud Dataflow; a slice is a job.

    Args:
        project: that runs and pays for the jobs.
        region: where they run.
        temp_location: folder of a bucket for what is staged and for the pages of a slice.
        worker_image: what workers run, as `runners/images/Dockerfile` builds it; it brings the model.
        machine_type: of workers; None leaves it to Dataflow.
        max_workers: machines that a job may take.
        parallelism: files that a slice's pages are spread over, so that as many can be worked on at once.
        service_account: as which workers run; None takes the project's default.
        embed_accelerator: of the embedding step alone.
        embed_min_ram_gib: of a worker of the embedding step.
    """

    project: Project
    region: Region
    temp_location: BucketFolder
    worker_image: Image
    machine_type: MachineType | None = None
    max_workers: int = Field(default=4, ge=1, le=4000)
    parallelism: int = Field(default=16, ge=1, le=4000)
    service_account: ServiceAccount | None = None
    embed_accelerator: Accelerator | None = None
    embed_min_ram_gib: int | None = Field(default=None, ge=1)
