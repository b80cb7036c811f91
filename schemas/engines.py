"""Tables of the configuration file that say where pipelines are run when not in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from schemas.sections import Section

FLINK_VERSION = "2.2"
"""Of the cluster and of Beam's job server alike: the newest that Beam 2.77 was published for."""


def _is_address(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError('expected host:port, such as "127.0.0.1:50000"')
    return value


def _is_url(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError('expected an address such as "http://127.0.0.1:8081"')
    return value.rstrip("/")


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
        job_server_jar: Beam's job server for this version of Flink and Beam, from Maven Central.
        job_server_sha256: what the jar must be; hexadecimal.
        parallelism: task slots that a job takes.
        checkpoint_interval_s: how often a job's state is written.
        checkpoint_timeout_s: when a checkpoint is given up.
        spool_dir: folder that this process writes and all workers read, where they are on several machines.
    """

    url: Url = "http://127.0.0.1:8081"
    worker_pool: Address = "127.0.0.1:50000"
    job_server_jar: Path | None = None
    job_server_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    parallelism: int = Field(default=2, ge=1)
    checkpoint_interval_s: float = Field(default=10, gt=0)
    checkpoint_timeout_s: float = Field(default=600, gt=0)
    spool_dir: Path | None = None
