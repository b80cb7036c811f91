"""What the configuration no longer names goes when a person says so: all of it, and nothing else."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from rich.console import Console

from benchmarks.stand_in import no_model
from pipelines.verify import verify
from pipelines.verify_sources import verify_sources
from runners import forget as module
from runners.forget import Forgotten, forget, to_forget
from runners.progress_bar import run_progress
from runners.run import run
from schemas.config import Config
from schemas.documents import Kind, Reference
from schemas.errors import BadConfig, SetupError, UnknownName
from schemas.sources import GitHubSource, GitSource, JiraSource, Source
from tests.fakes.git_repo import Repo
from tests.runners.memory_source import MemorySource, building, configured
from tests.runners.stored_text import all_text
from tests.runners.world import Headrace, issue, run_quietly, write_export
from transforms import deliveries, runs, stored_sources
from transforms.deliveries import NewDelivery
from transforms.notify import CHANNEL
from transforms.postgres import Store

MakeConfig = Callable[..., Config]


@pytest.fixture(autouse=True)
def _stand_in() -> Iterator[None]:
    with no_model():
        yield


@pytest.fixture
def sources() -> list[MemorySource]:
    """One that stays and one that goes, with the same documents."""
    found = [MemorySource("stays"), MemorySource("goes")]
    for source in found:
        for number in range(5):
            source.put(str(number), f"the {source.name} gate {number}")
    return found


@pytest.fixture
def config(make_config: MakeConfig, sources: list[MemorySource]) -> Config:
    """After both were read, one of them is left out of the file."""
    both = make_config().model_copy(update={"sources": tuple(configured(one.name) for one in sources)})
    read(both, *sources)
    return both.model_copy(update={"sources": both.sources[:1]})


def read(config: Config, *sources: MemorySource) -> None:
    with run_progress(Console(quiet=True), visible=False) as bar:
        assert run(config, bar, build=building(*sources)).ok


def forgotten(config: Config, source: str, project: str | None = None) -> Forgotten:
    with run_progress(Console(quiet=True), visible=False) as bar:
        return forget(config, bar, "acme", source, project)


def live(database: Store) -> set[tuple[str, str]]:
    with database.connect() as connection:
        rows = connection.execute("SELECT source, native_id FROM documents WHERE deleted_at IS NULL")
        return set(rows.fetchall())


def refused(config: Config, source: Source, project: str | None) -> str:
    with pytest.raises(BadConfig) as caught:
        to_forget(config.model_copy(update={"sources": (source,)}), "acme", source.name, project)
    return str(caught.value)


def test_nothing_of_the_source_is_left_and_all_of_the_others_is(
    config: Config, sources: list[MemorySource], database: Store
) -> None:
    with database.connect() as connection:
        reference = Reference(Kind.ISSUE, "1")
        for name in ("goes", "stays"):
            deliveries.store(connection, [NewDelivery("acme", name, "d1", "issues", (reference,))])
        connection.execute(  # of a document that is stored, and of one that never was
            "INSERT INTO dead_letters SELECT gen_random_uuid(), client, source,"
            " CASE native_id WHEN '1' THEN document_id ELSE gen_random_uuid() END, 'jira_issue', kind, 'torn',"
            " now(), now(), '', 'extract', '', '', true, convert_to('the ' || source || ' gate', 'UTF8')"
            " FROM documents WHERE native_id IN ('1', '2')"
        )
        connection.execute(
            "INSERT INTO document_links SELECT document_id, 'mentions', 'commit', 'abc' FROM documents"
        )
    held = to_forget(config, "acme", "goes")
    assert (held.documents, held.dead_letters) == ({"issue": 5}, 2)
    done = forgotten(config, "goes")
    assert (done.deleted, done.index.count) == (5, 5)
    assert live(database) == {("stays", str(number)) for number in range(5)}
    with database.connect() as connection:
        assert stored_sources.stored_sources(connection, "acme") == ["stays"]
        queued = connection.execute("SELECT source FROM webhook_deliveries").fetchall()
        links = connection.execute(
            "SELECT DISTINCT source FROM document_links LEFT JOIN documents USING (document_id)"
        )
        assert (queued, links.fetchall()) == ([("stays",)], [("stays",)])
        last = runs.last_run(connection, "acme")
        assert last is not None
        assert runs.counts_of_run(connection, last.run_id) == {"goes": {"deleted": 5}}
    assert "the goes gate" not in all_text(database)
    assert "the stays gate" in all_text(database)
    assert verify(config, "acme").ok


def test_whoever_listens_hears_of_it_as_of_any_deletion(config: Config, database: Store) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as listener:
        listener.execute(f"LISTEN {CHANNEL}")
        done = forgotten(config, "goes")
        heard = [json.loads(notice.payload) for notice in listener.notifies(timeout=0.2)]
    (change,) = heard
    assert (change["source"], change["deleted"], change["run_id"]) == ("goes", 5, str(done.run_id))
    assert len(set(change["document_ids"])) == 5


def test_configured_again_it_is_read_from_its_beginning(
    config: Config, sources: list[MemorySource], database: Store
) -> None:
    forgotten(config, "goes")
    again = config.model_copy(update={"sources": (*config.sources, configured("goes"))})
    read(again, *sources)
    assert len(live(database)) == 10
    assert verify(config, "acme").ok


def test_what_its_source_dated_ahead_of_our_clock_goes_too(config: Config, database: Store) -> None:
    with database.connect() as connection:
        connection.execute("UPDATE documents SET updated_at = updated_at + interval '50 years'")
    assert forgotten(config, "goes").deleted == 5
    assert {source for source, _ in live(database)} == {"stays"}


@pytest.mark.parametrize("step", ["forget_place", "forget_some", "forget_state", "update_index"])
@pytest.mark.parametrize("before", [True, False])
def test_stopped_anywhere_it_goes_on_when_it_is_called_again(
    step: str,
    before: bool,
    config: Config,
    database: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stored_sources, "AT_ONCE", 2)
    work = getattr(module, step)

    def stopped(*given: Any) -> Any:
        if not before:
            work(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, step, stopped)
        with pytest.raises(KeyboardInterrupt):
            forgotten(config, "goes")
    if (step, before) == ("forget_state", False):
        with pytest.raises(UnknownName):
            forgotten(config, "goes")
    else:
        forgotten(config, "goes")
    assert {source for source, _ in live(database)} == {"stays"}
    assert verify(config, "acme").ok
    with database.connect() as connection:
        assert stored_sources.stored_sources(connection, "acme") == ["stays"]


def test_what_is_still_configured_is_refused(config: Config, database: Store) -> None:
    code = GitSource(type="git", name="code", path=Path("code"))
    assert "take it out of the file" in refused(config, code, None)
    assert "forget it whole" in refused(config, code, "acme/mill")
    github = GitHubSource(type="github", name="stays", repositories=("Acme/Mill",))
    assert "`repositories`" in refused(config, github, "acme/mill")
    jira = JiraSource(type="jira", name="stays", site_url="https://jira.example.com")
    assert "`projects`" in refused(config, jira, "MILL")
    assert len(live(database)) == 10


def test_a_source_of_another_client_is_not_the_one_that_is_configured(
    config: Config, sources: list[MemorySource], database: Store
) -> None:
    theirs = configured("goes").model_copy(update={"client": "rival"})
    beside = config.model_copy(update={"sources": (*config.sources, theirs)})
    assert forgotten(beside, "goes").deleted == 5
    with pytest.raises(BadConfig):
        to_forget(beside, "rival", "goes")


def test_of_a_project_that_is_no_longer_named_alone(
    make_config: MakeConfig, database: Store, tmp_path: Path
) -> None:
    issues = [issue(number) for number in range(4)]
    for one in issues[:2]:
        one["key"], one["fields"]["project"] = f"WEIR-{one['id']}", {"key": "WEIR", "name": "Weir"}
    config = make_config(write_export(tmp_path / "a.jsonl", issues))
    run_quietly(config)
    narrower = JiraSource(
        type="jira", name="tickets", site_url="https://jira.example.com", projects=("MILL",)
    )
    config = config.model_copy(update={"sources": (narrower,)})
    with pytest.raises(UnknownName, match="expected one of MILL, WEIR"):
        to_forget(config, "acme", "tickets", "SLUICE")
    assert to_forget(config, "acme", "tickets", "WEIR").documents == {"issue": 2}
    assert forgotten(config, "tickets", "WEIR").deleted == 2
    assert live(database) == {("tickets", "10002"), ("tickets", "10003")}
    assert verify(config, "acme").ok
    with database.connect() as connection:
        cursors = connection.execute("SELECT count(*) FROM source_cursors").fetchone()
    assert cursors == (1,), "what is still read goes on where it was"


def test_while_another_writes_for_the_client_nothing_is_forgotten(
    config: Config, database: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "LOCK_WAIT", "50ms")
    with (
        database.connect() as connection,
        runs.only_writer(connection, "acme"),
        pytest.raises(SetupError, match="headrace watch"),
    ):
        forgotten(config, "goes")
    assert len(live(database)) == 10


def test_a_source_that_is_stored_and_not_configured_is_shown(config: Config) -> None:
    verdicts = verify_sources(config, "acme", lambda *given: MemorySource("stays"))
    left = verdicts[-1]
    assert (left.source, left.ok, left.difference) == ("goes", True, None)
    assert "`headrace forget goes`" in left.not_asked


def test_at_the_command_line_it_counts_asks_and_deletes(
    headrace: Headrace,
    write_config: Callable[[str], Path],
    tmp_path: Path,
    database: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    repo = Repo(tmp_path / "code")
    for title in ("Dig the race", "Repair the penstock"):
        repo.commit(title)
    other = '[[sources]]\ntype = "export"\nname = "tickets"\npaths = ["a.jsonl"]\n'
    write_export(tmp_path / "a.jsonl", [issue(1)])
    source = f'[[sources]]\ntype = "git"\nname = "code"\nurl = "{repo.path}"\ncherry_picks = false\n'
    config = write_config(source + other)
    assert headrace("run", "-c", config)[0] == 0
    kept = [
        *(tmp_path / ".headrace" / "mirrors").iterdir(),
        *(tmp_path / ".headrace" / "patch-ids").iterdir(),
    ]
    assert len(kept) == 2
    assert json.loads(headrace("status", "-c", config, "--json")[1])["not_configured"] == []

    code, _, err = headrace("forget", "code", "-c", config)
    assert (code, "still configured" in err) == (1, True)
    config = write_config(other)
    code, _, err = headrace("forget", "nobody", "-c", config)
    assert (code, "expected one of code, tickets" in err) == (1, True)

    shown = json.loads(headrace("status", "-c", config, "--json")[1])["not_configured"]
    assert shown == [{"source": "code", "delete_with": "headrace forget code"}]
    assert "headrace forget code" in headrace("status", "-c", config)[1]
    assert "headrace forget code" in headrace("verify", "-c", config, "--sources")[1].replace("\n", " ")

    code, out, _ = headrace("forget", "code", "-c", config, "--dry-run", "--json")
    assert (code, json.loads(out)) == (0, {"documents": {"commit": 2}, "dead_letters": 0})
    code, out, _ = headrace("forget", "code", "-c", config, "--dry-run")
    assert (code, "commit" in out) == (0, True)
    for said in ("", "n\n"):
        monkeypatch.setattr(sys, "stdin", io.StringIO(said))
        code, _, err = headrace("forget", "code", "-c", config)
        assert (code, "stored of code" in err, "Aborted" in err) == (1, True, True)
    assert len(live(database)) == 3
    assert all(path.exists() for path in kept)

    code, out, _ = headrace("forget", "code", "-c", config, "--yes", "--json")
    assert (code, json.loads(out)["deleted"]) == (0, 2)
    assert {source for source, _ in live(database)} == {"tickets"}
    assert not any(path.exists() for path in kept)
    assert headrace("verify", "-c", config)[0] == 0
    assert headrace("forget", "code", "-c", config, "--yes")[0] == 1
