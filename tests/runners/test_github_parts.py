"""A repository of GitHub that may not be read: the others of its source are stored, followed and looked at again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from benchmarks.stand_in import no_model
from extractors import github_failures
from schemas.config import Config
from schemas.sources import GitHubSource
from tests.fakes.github import TOKEN, FakeGitHub
from tests.fakes.serving import Faults, answer, serve
from tests.runners.live_world import TOKEN_VARIABLE, Clock
from tests.runners.test_watch import followed
from tests.runners.world import Headrace
from tests.transforms.embedders.tiny_models import write_model
from transforms.postgres import Store
from transforms.source_states import SourceState

WEIR = "/repos/acme/weir"
NO_SCOPE = answer(403, {}, {"message": "Resource not accessible by personal access token"})
SOURCE = """
[model]
name = "tiny/bert"
folder = "tiny"
[[sources]]
type = "github"
name = "live"
repositories = ["acme/weir", "acme/sluice"]
api_url = "{url}"
token = "env:{variable}"
"""


class Hub:
    """Two repositories with an issue each."""

    def __init__(self) -> None:
        self.github = FakeGitHub(Clock().now)
        self.weir, self.sluice = (self.github.repository(f"acme/{name}") for name in ("weir", "sluice"))
        for repository in (self.weir, self.sluice):
            self.github.create(repository, title=f"The gate of {repository.full_name} jams")
        self.faults = Faults(self.github)
        self.url = ""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    made = Hub()
    with serve(made.faults) as made.url:
        yield made


def live_keys(store: Store) -> set[str]:
    with store.connect() as connection:
        found = connection.execute("SELECT key FROM documents WHERE deleted_at IS NULL").fetchall()
    return {key for (key,) in found}


def planned_after(state: SourceState) -> timedelta | None:
    """From the beginning of the last poll to the next; None while one goes on."""
    if state.busy_since is not None or state.next_poll_at is None or state.last_polled_at is None:
        return None
    return state.next_poll_at - state.last_polled_at


def test_a_run_stores_the_others_and_ends_with_a_line_that_names_the_one(
    hub: Hub, headrace: Headrace, write_config: Callable[[str], Path], database: Store, tmp_path: Path
) -> None:
    write_model(tmp_path / "tiny")
    config = write_config(SOURCE.format(url=hub.url, variable=TOKEN_VARIABLE))
    hub.faults.next(NO_SCOPE, prefix=WEIR, times=1)
    code, out, err = headrace("run", "-c", config)
    assert (code, "live" in out) == (1, True)
    [line] = err.strip().splitlines()
    assert all(words in line for words in ('source "live"', "HTTP 403", "check token", "acme/weir")), line
    assert live_keys(database) == {"acme/sluice#1"}
    assert headrace("run", "-c", config)[0] == 0
    both = {"acme/sluice#1", "acme/weir#1"}
    assert live_keys(database) == both
    hub.faults.next(NO_SCOPE, prefix=WEIR, times=100)
    code, _, err = headrace("reconcile", "-c", config)
    assert (code, live_keys(database)) == (1, both), err
    assert headrace("run", "-c", config)[0] == 1
    assert live_keys(database) == both


def test_a_watcher_follows_the_others_at_their_interval(
    hub: Hub, make_config: Callable[..., Config], database: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(github_failures, "LONGEST_PAUSE", timedelta(seconds=3))
    source = GitHubSource(
        type="github",
        name="live",
        repositories=("acme/weir", "acme/sluice"),
        api_url=hub.url,
        token=f"env:{TOKEN_VARIABLE}",
        poll_interval_s=1,
        overlap_s=0,
    )
    config = make_config().model_copy(update={"sources": (source,)})
    hub.faults.next(NO_SCOPE, prefix=WEIR, times=10**6)
    with no_model(), followed(config, database) as view:
        view.until(lambda: live_keys(database) == {"acme/sluice#1"})
        view.until(lambda: view.state("live").consecutive_failures >= 3)
        view.until(lambda: planned_after(view.state("live")) == timedelta(seconds=1))
        hub.github.create(hub.sluice, title="The sluice freezes")
        assert view.until(lambda: "acme/sluice#2" in live_keys(database)) < 6  # interval and 5 s
        state = view.state("live")
        assert state.last_error is not None
        assert "acme/weir" in state.last_error
        hub.faults.clear()
        view.until(lambda: live_keys(database) == {"acme/sluice#1", "acme/sluice#2", "acme/weir#1"}, 30)
        view.until(lambda: view.state("live").consecutive_failures == 0, 30)
    told = [line.partition(":")[0] for line in view.said if "acme/weir" in line]
    assert sorted(told) == ["live", "live (reconcile)"]  # each once, not at every poll
    assert "live: well again" in view.said
