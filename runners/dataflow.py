"""Runs on Google Cloud Dataflow: each slice is a job, and a watch is one streaming job. What would only fail there is
refused before submission."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager

from runners import flink
from runners.targets import Target
from schemas.config import Config
from schemas.engines import Dataflow
from schemas.errors import AccessRefused, BadConfig, JobRefused, MissingTool
from schemas.ids import settings_digest
from schemas.sources import ExportSource, GitSource

MOST_CHARS = 300
"""Of what Google Cloud says that is shown."""


@contextmanager
def opened(config: Config) -> Iterator[Target]:
    """Dataflow, by the account that Google's libraries find on this machine.

    Raises:
        BadConfig: there is no `[dataflow]` table, or workers elsewhere could not reach what is configured.
        MissingTool: the extra is not installed.
        AccessRefused: no account is found.
        JobRefused: Google Cloud refuses what is asked of it within the block.
    """
    settings = checked(config)
    if not _has_extra():
        raise MissingTool("Beam's Google Cloud parts are not installed: run pip install 'headrace[dataflow]'")
    _check_account()
    with _said_in_one_line():
        yield target_of(settings)


@contextmanager
def _said_in_one_line() -> Iterator[None]:
    from apache_beam.runners.dataflow.internal.apiclient import DataflowJobAlreadyExistsError
    from google.api_core.exceptions import GoogleAPICallError

    try:
        yield
    except DataflowJobAlreadyExistsError as error:
        raise JobRefused(
            f"Dataflow: {_shown(error)} Cancel that one, or let this one take its place: -- --update"
        ) from error
    except GoogleAPICallError as error:
        raise JobRefused(f"Google Cloud refused: {_shown(error)}") from error


def _shown(error: Exception) -> str:
    return " ".join(str(error).split())[:MOST_CHARS]


def check_followed(config: Config) -> None:
    """See that workers elsewhere can read every source.

    Raises:
        BadConfig: one is a file or a folder of this machine.
    """
    for source in config.sources:
        is_here = isinstance(source, ExportSource)
        if isinstance(source, GitSource):
            is_here = source.url is None or source.url.startswith(("/", "file:"))
        if is_here:
            raise BadConfig(
                f"source {source.name!r} is on this machine, where Dataflow's workers are not: watch it from here,"
                " without --runner"
            )


def watch_job_name(config: Config) -> str:
    """Of the streaming job of a client, in the letters that Dataflow allows; no two of a name run in a project."""
    owner = flink.watch_job_name(config)
    readable = re.sub(r"[^a-z0-9]+", "-", config.client.lower())[:32].strip("-")
    return f"headrace-watch-{readable}-{settings_digest({'owner': owner}).hex()[:8]}"


def target_of(settings: Dataflow) -> Target:
    """The table as a target."""
    return Target(
        options(settings),
        spools=settings.parallelism,
        spool_dir=f"{settings.temp_location}/spools",
        embed_hints=embed_hints(settings),
    )


def _has_extra() -> bool:
    try:
        return importlib.util.find_spec("google.cloud.dataflow_v1beta3") is not None
    except ModuleNotFoundError:  # not even google.cloud
        return False


def _check_account() -> None:
    import google.auth

    try:
        google.auth.default()
    except google.auth.exceptions.DefaultCredentialsError:
        raise AccessRefused(
            "no Google account is found on this machine: run gcloud auth application-default login, or let"
            " GOOGLE_APPLICATION_CREDENTIALS name a key"
        ) from None


def checked(config: Config) -> Dataflow:
    """The table, where the rest of the configuration goes with it.

    Raises:
        BadConfig: it does not.
    """
    settings = config.dataflow
    if settings is None:
        raise BadConfig(
            "--runner dataflow needs a [dataflow] table with project, region, temp_location and worker_image"
        )
    if config.postgres.dsn is None:
        raise BadConfig(
            "postgres.dsn is not set: workers of Dataflow cannot reach the embedded Postgres of this machine: name a"
            " server that they and this machine reach"
        )
    return settings


def options(settings: Dataflow) -> tuple[str, ...]:
    """Beam's options for a job."""
    given = [
        "--runner=DataflowRunner",
        f"--project={settings.project}",
        f"--region={settings.region}",
        f"--temp_location={settings.temp_location}/temp",
        f"--staging_location={settings.temp_location}/staging",
        f"--sdk_container_image={settings.worker_image}",
        "--sdk_location=container",
        "--no_save_main_session",  # headrace is installed in the image
        f"--max_num_workers={settings.max_workers}",
    ]
    if settings.machine_type:
        given.append(f"--worker_machine_type={settings.machine_type}")
    if settings.service_account:
        given.append(f"--service_account_email={settings.service_account}")
    if settings.embed_accelerator:
        # Otherwise Dataflow starts a process for each core, each with the model on the one card.
        given.append("--experiments=no_use_multiple_sdk_containers")
    return tuple(given)


def embed_hints(settings: Dataflow) -> dict[str, str]:
    """Beam's resource hints for the embedding step."""
    hints = {}
    if settings.embed_accelerator:
        hints["accelerator"] = settings.embed_accelerator
    if settings.embed_min_ram_gib:
        hints["min_ram"] = f"{settings.embed_min_ram_gib}GiB"
    return hints
