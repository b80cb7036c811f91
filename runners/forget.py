"""`headrace forget`: deletes what is stored of a source, or of a project, that the configuration no longer names."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from uuid import UUID

import psycopg

from extractors.git_mirror import remove_copies
from runners.progress_bar import RunProgress
from schemas.config import Config
from schemas.errors import BadConfig, UnknownName
from schemas.outcomes import Outcome
from schemas.sources import GitHubSource, JiraSource, Source
from transforms import runs
from transforms.postgres import open_store
from transforms.sinks.faiss_index import IndexReport, update_index
from transforms.spaces import space_of_client
from transforms.stored_sources import (
    Holdings,
    forget_place,
    forget_some,
    forget_state,
    holdings,
    stored_projects,
    stored_sources,
)


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was deleted, and what became of the client's FAISS index."""

    run_id: UUID
    deleted: int
    index: IndexReport


def to_forget(config: Config, client: str, source: str, project: str | None = None) -> Holdings:
    """What `forget` would delete; changes nothing.

    Raises:
        BadConfig: the configuration still names it, so that the next run would read it again.
        UnknownName: nothing of it is stored.
    """
    _check_left_out(config, client, source, project)
    with open_store(config).connect() as connection:
        _check_known(connection, client, source, project)
        return holdings(connection, client, source, project)


def forget(
    config: Config, bar: RunProgress, client: str, source: str, project: str | None = None
) -> Forgotten:
    """Delete a source's documents as if it had said so, then all that is known of it, mirrors included.

    Stopped at any moment, it goes on when it is called again.

    Args:
        project: only what is of this project or repository.
    Raises:
        BadConfig, UnknownName: as `to_forget`.
        SetupError: another writer of this client.
    """
    _check_left_out(config, client, source, project)
    total: Counter[Outcome] = Counter()
    with open_store(config).connect() as connection:
        _check_known(connection, client, source, project)
        space = space_of_client(connection, client)
        bar.step("forgetting")
        with runs.started(connection, client, space.space_id) as run_id:
            if project is None:
                forget_place(connection, client, source)
            while (counts := forget_some(connection, client, source, project, run_id)) is not None:
                runs.add_counts(connection, run_id, source, {str(name): n for name, n in counts.items()})
                total += counts
            bar.step("FAISS index")
            index = update_index(connection, config.data_dir, space, client, config.faiss)
            if project is None:
                if all(source != other.name for other in config.sources):
                    remove_copies(config.data_dir, source)
                # Last: until then it is known that there is more to do.
                forget_state(connection, client, source)
    return Forgotten(run_id, total[Outcome.DELETED], index)


def _check_left_out(config: Config, client: str, source: str, project: str | None) -> None:
    configured = [one for one in config.sources_of(client) if one.name == source]
    if not configured:
        return
    if project is None:
        raise BadConfig(f"source {source} is still configured: take it out of the file, then forget it")
    setting, read = _read_projects(configured[0])
    if setting is None:
        raise BadConfig(
            f"source {source} is still configured, and has no projects to choose from: forget it whole"
        )
    if not read or project.lower() in read:
        raise BadConfig(
            f"source {source} still reads {project}: have `{setting}` name what it is to read, and not this one"
        )


def _read_projects(source: Source) -> tuple[str | None, set[str]]:
    """The setting that names a source's projects, and these in lower case; an empty set stands for all."""
    match source:
        case GitHubSource():
            return "repositories", {name.lower() for name in source.repositories}
        case JiraSource():
            return "projects", {name.lower() for name in source.projects}
    return None, set()


def _check_known(connection: psycopg.Connection, client: str, source: str, project: str | None) -> None:
    known = stored_sources(connection, client)
    if source not in known:
        raise UnknownName(
            f"nothing is stored of source {source!r}: expected one of {', '.join(known) or 'none'}"
        )
    projects = stored_projects(connection, client, source)
    if project is not None and project not in projects:
        raise UnknownName(
            f"nothing is stored of {project!r} in source {source}: expected one of {', '.join(projects) or 'none'}"
        )
