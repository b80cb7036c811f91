"""A fake GitHub and a fake Jira that people change, and what an index of them is to hold.

Every text has a word that no other text has, so that what is stored is known by its words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, Literal

import orjson

from extractors.base import Extractor, OnWait
from extractors.deliveries import Provider, read_delivery
from extractors.github_live import GitHubRepositories
from extractors.jira_site import JiraSite
from runners.addressees import Registered, addressed
from schemas.documents import Kind
from schemas.sources import GitHubSource, JiraSource, Source
from tests.fakes.github import TOKEN, FakeGitHub
from tests.fakes.github_contents import Repository
from tests.fakes.jira import FakeJira
from tests.fakes.serving import Faults
from transforms.deliveries import NewDelivery

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
TOKEN_VARIABLE = "HEADRACE_TEST_LIVE_TOKEN"
READ = ("acme/sluice", "acme/weir")
PROJECTS = ("ABC", "XYZ")
OUTSIDE = "OUT"
FILLER = "gate sluice sensor level alarm turbine intake weir relay frost"
WORD = re.compile(r"word\d+")

Doc = tuple[str, str, str]
"""Source, kind, native id."""

GITHUB_EVENTS = (
    "issue", "issue", "pull", "edit", "edit", "relabel", "silent", "rename label", "comment", "comment",
    "edit comment", "delete comment", "review", "review comment", "delete review", "delete", "transfer",
    "transfer away",
)  # fmt: skip
JIRA_EVENTS = (
    "issue", "issue", "edit", "edit", "silent", "comment", "comment", "edit comment", "delete comment", "move",
    "move out", "move in", "delete",
)  # fmt: skip


@dataclass(frozen=True)
class Event:
    """Something that people do.

    Args:
        where: at which of the two.
        place: picks among what is there.
        after_s: how long nobody does anything before.
        told: when the delivery about it arrives, if it does.
    """

    where: Literal["github", "jira"]
    what: str
    place: int
    after_s: int = 1
    told: Literal["never", "at once", "twice", "late"] = "never"


@dataclass(frozen=True)
class Shown:
    """A document as its source shows it.

    Args:
        words: of its texts and labels.
        says_changed_at: the time of change that polls go by.
    """

    key: str
    words: frozenset[str]
    says_changed_at: str


class Clock:
    """Time passes when someone waits, when a test says so, and a little whenever someone looks."""

    def __init__(self) -> None:
        self.moment = START

    def now(self) -> datetime:
        self.moment += timedelta(milliseconds=1)
        return self.moment

    def sleep(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


class LiveWorld:
    """Both services. Two repositories and two projects are read; one of each is not.

    Args:
        lag_s: how long Jira's search does not know of a change.
        page_size: of both services' lists.
    """

    def __init__(self, *, data_center: bool, lag_s: float, page_size: int) -> None:
        self.clock = Clock()
        self.lag_s = lag_s
        self.github = FakeGitHub(self.clock.now, limit=10**9, page_size=page_size)
        self.jira = FakeJira(
            self.clock.now,
            data_center=data_center,
            search_lag_s=lag_s,
            accepts=f"Bearer {TOKEN}",
            page_cap=page_size,
        )
        self.github_faults, self.jira_faults = Faults(self.github), Faults(self.jira.app)
        self.repositories = [self.github.repository(name) for name in READ]
        self.elsewhere = self.github.repository("acme/elsewhere")
        self._numbers = count()
        self._deliveries = count()
        self.changed_at: dict[Doc, datetime] = {}
        self.github.create(self.repositories[0], title=self._words(1))  # an empty census is not believed
        for project in PROJECTS:
            self.jira.add_project(project)
        self.jira.create("ABC", summary=self._words(1))

    def settings(self, github_url: str, jira_url: str) -> tuple[Source, ...]:
        token = f"env:{TOKEN_VARIABLE}"
        return (
            GitHubSource(type="github", name="github", repositories=READ, api_url=github_url, token=token),
            JiraSource(type="jira", name="jira", site_url=jira_url, projects=PROJECTS, token=token),
        )

    def build(self, source: Source, client: str, data_dir: Path, on_wait: OnWait) -> Extractor:
        """Readers that live by the clock of this world."""
        if isinstance(source, GitHubSource):
            return GitHubRepositories(source, client, on_wait, now=self.clock.now, sleep=self.clock.sleep)
        assert isinstance(source, JiraSource)
        return JiraSite(source, client, on_wait, now=self.clock.now, sleep=self.clock.sleep)

    # What happens

    def happen(self, event: Event, sources: Iterable[Source]) -> list[NewDelivery]:
        """Let an event happen; gives the deliveries about it, if it is anything that can happen now."""
        self.clock.sleep(event.after_s)
        before = self.truth()
        told = self._at_github(event) if event.where == "github" else self._at_jira(event)
        after = self.truth()
        moment = self.clock.now()
        for doc in before.keys() | after.keys():
            if before.get(doc) != after.get(doc):
                self.changed_at[doc] = moment
        return [delivery for name, body in told for delivery in self._addressed(event, name, body, sources)]

    def _addressed(
        self, event: Event, name: str, body: Mapping[str, Any], sources: Iterable[Source]
    ) -> list[NewDelivery]:
        provider: Provider = event.where
        to = next(source for source in sources if source.name == event.where)
        assert isinstance(to, GitHubSource | JiraSource)
        hint = read_delivery(provider, name, orjson.loads(orjson.dumps(body)))
        known_by = f"delivery {next(self._deliveries)}"
        return addressed(hint, Registered(to, "acme", b"secret"), known_by, tuple(sources), "acme")

    def _at_github(self, event: Event) -> Iterator[tuple[str, Mapping[str, Any]]]:
        return iter(list(self._told_by_github(event)))

    def _told_by_github(self, event: Event) -> Iterator[tuple[str, Mapping[str, Any]]]:
        github, place = self.github, event.place
        home = self.repositories[place % len(self.repositories)]
        issues, said = home.values["issues"], home.values["comments"] | home.values["review_comments"]
        number = _pick(issues, place)
        pull = _pick(home.pulls, place)
        match event.what:
            case "issue" | "pull":
                number = github.create(
                    home,
                    pull=event.what == "pull",
                    title=self._words(1),
                    body=self._words(place % 4),
                    labels=[{"name": self._words(1)}],
                )
                yield _of_issue(home, number, "opened")
            case "edit" if number:
                github.edit(home, number, title=self._words(1), body=self._words(place % 4))
                yield _of_issue(home, number, "edited")
            case "relabel" if number:
                github.edit(home, number, labels=[{"name": self._words(1)}, {"name": self._words(1)}])
                yield _of_issue(home, number, "labeled")
            case "silent" if number:
                github.silent_update(home, number, labels=[{"name": self._words(1)}])
            case "rename label" if number:
                old, new = issues[number]["labels"], self._words(1)
                for other, issue in list(issues.items()):
                    labels = [{"name": new} if label in old[:1] else label for label in issue["labels"]]
                    github.silent_update(home, other, labels=labels)
                yield "label", {"action": "edited", "label": {"name": new}, **_repository(home)}
            case "comment" if number:
                row = github.comment(home, number, self._words(1 + place % 3))
                yield _of_comment(home, row, "created")
            case "edit comment" if row := _pick(said, place):
                github.edit_comment(home, row, self._words(1 + place % 3))
                yield _of_comment(home, row, "edited")
            case "delete comment" if row := _pick(said, place):
                body = _of_comment(home, row, "deleted")
                github.delete_comment(home, row)
                yield body
            case "review" if pull:
                row = github.review(home, pull, self._words(1))
                yield _of_review(home, pull, row, "submitted")
            case "review comment" if pull:
                yield _of_comment(home, github.review_comment(home, pull, self._words(1)), "created")
            case "delete review" if pull and home.reviews[pull]:
                row = next(iter(home.reviews[pull]))
                body = _of_review(home, pull, row, "dismissed")
                github.delete_review(home, pull, row)
                yield body
            case "delete" if number and number not in home.pulls and not self._is_last(home, number):
                body = _of_issue(home, number, "deleted")
                github.delete(home, number)
                yield body
            case "transfer" | "transfer away" if number and number not in home.pulls:
                if self._is_last(home, number):
                    return
                other = self.repositories[1 - place % 2] if event.what == "transfer" else self.elsewhere
                name, left = _of_issue(home, number, "transferred")
                came = github.transfer(home, number, other)
                yield name, {**left, "changes": {"new_issue": other.values["issues"][came]}}

    def _is_last(self, home: Repository, number: int) -> bool:
        return (home, number) == (self.repositories[0], 1)

    def _at_jira(self, event: Event) -> Iterator[tuple[str, Mapping[str, Any]]]:
        return iter(list(self._told_by_jira(event)))

    def _told_by_jira(self, event: Event) -> Iterator[tuple[str, Mapping[str, Any]]]:
        jira, place = self.jira, event.place
        inside = [number for number, issue in jira.issues.items() if issue.project in PROJECTS]
        outside = [number for number, issue in jira.issues.items() if issue.project == OUTSIDE]
        number = inside[place % len(inside)]
        said = [int(comment["id"]) for comment in jira.issues[number].comments]
        is_first = number == inside[0]
        match event.what:
            case "issue":
                number = jira.create(
                    PROJECTS[place % 2],
                    summary=self._words(1),
                    description=self._words(place % 4),
                    labels=[self._words(1)],
                )
                yield self._of_jira(number, "jira:issue_created")
            case "edit":
                jira.edit(number, summary=self._words(1), description=self._words(place % 4))
                yield self._of_jira(number, "jira:issue_updated")
            case "silent":
                jira.edit_silently(number, labels=[self._words(1)])
            case "comment":
                jira.comment(number, self._words(1 + place % 3))
                yield self._of_jira(number, "comment_created")
            case "edit comment" if said:
                jira.edit_comment(number, said[place % len(said)], self._words(1))
                yield self._of_jira(number, "comment_updated")
            case "delete comment" if said:
                jira.delete_comment(number, said[place % len(said)])
                yield self._of_jira(number, "comment_deleted")
            case "move":
                jira.move(number, PROJECTS[1 - PROJECTS.index(jira.issues[number].project)])
                yield self._of_jira(number, "jira:issue_updated")
            case "move out" if not is_first:
                jira.move(number, OUTSIDE)
                yield self._of_jira(number, "jira:issue_updated")
            case "move in" if outside:
                number = outside[place % len(outside)]
                jira.move(number, PROJECTS[place % 2])
                yield self._of_jira(number, "jira:issue_updated")
            case "delete" if not is_first:
                body = self._of_jira(number, "jira:issue_deleted")
                jira.delete(number)
                yield body

    def _of_jira(self, number: int, event: str) -> tuple[str, Mapping[str, Any]]:
        return "", {"webhookEvent": event, "issue": {"id": str(number), "key": self.jira.issues[number].key}}

    def _words(self, texts: int) -> str:
        return "\n\n".join(f"word{next(self._numbers)} {FILLER}" for _ in range(texts))

    # What lists leave out

    @contextmanager
    def listings_without(self, places: Iterable[int]) -> Iterator[set[Doc]]:
        """Lists are cut short meanwhile, though all is there; gives what they may lack."""
        self.jira.catch_up()
        rows = sorted(self.jira.index)
        lost = {rows[place % len(rows)] for place in places}
        known = {number: self.jira.index[number] for number in lost}
        keys = [f"{home.full_name}#{n}" for home in self.repositories for n in sorted(home.values["issues"])]
        cut = {keys[place % len(keys)] for place in places}
        for home, number in self._issues_of(cut):
            self.github.vanish(home, number)
        for number in lost:
            self.jira._apply(number, None)
        try:
            yield {
                doc
                for doc, shown in self.truth().items()
                if shown.key.partition(" ")[0] in cut or (doc[0] == "jira" and int(doc[2]) in lost)
            }
        finally:
            for home, number in self._issues_of(cut):
                self.github.silent_update(home, number)
            for number, indexed in known.items():
                if number in self.jira.issues and number not in self.jira.index:
                    self.jira._apply(number, indexed)

    def _issues_of(self, keys: Iterable[str]) -> list[tuple[Repository, int]]:
        found = [key.partition("#") for key in sorted(keys)]
        return [(self.repositories[READ.index(name)], int(number)) for name, _, number in found]

    # What is there

    def truth(self) -> dict[Doc, Shown]:
        """All that an index is to hold."""
        return dict(self._github_truth()) | dict(self._jira_truth())

    def _github_truth(self) -> Iterator[tuple[Doc, Shown]]:
        for home in self.repositories:
            for number, issue in home.values["issues"].items():
                kind = Kind.PULL if number in home.pulls else Kind.ISSUE
                row = home.pulls[number]["id"] if kind is Kind.PULL else issue["id"]
                key = f"{home.full_name}#{number}"
                texts = [issue["title"], issue["body"], *(label["name"] for label in issue["labels"])]
                yield ("github", kind, str(row)), _shown(key, texts, issue["updated_at"])
                for review in home.reviews.get(number, {}).values():
                    place = f"{key} (review {review['id']})"
                    yield (
                        ("github", Kind.REVIEW, str(review["id"])),
                        _shown(place, [review["body"]], review["submitted_at"]),
                    )
            for kind, name in ((Kind.COMMENT, "comments"), (Kind.REVIEW_COMMENT, "review_comments")):
                for row, said in home.values[name].items():
                    number = _number_of(said)
                    key = f"{home.full_name}#{number} ({kind.replace('_', ' ')} {row})"
                    yield ("github", kind, str(row)), _shown(key, [said["body"]], said["updated_at"])

    def _jira_truth(self) -> Iterator[tuple[Doc, Shown]]:
        for number, issue in self.jira.issues.items():
            if issue.project in PROJECTS:
                fields = issue.fields
                texts = [fields["summary"], fields.get("description"), *fields["labels"]]
                texts += [comment["body"] for comment in issue.comments]
                yield ("jira", Kind.ISSUE, str(number)), _shown(issue.key, texts, fields["updated"])


def words_in(texts: Iterable[str | None]) -> frozenset[str]:
    return frozenset(word for text in texts for word in WORD.findall(text or ""))


def _shown(key: str, texts: Iterable[str | None], says_changed_at: str) -> Shown:
    return Shown(key, words_in(texts), says_changed_at)


def _pick(rows: Mapping[int, Any], place: int) -> int | None:
    return sorted(rows)[place % len(rows)] if rows else None


def _number_of(said: Mapping[str, Any]) -> int:
    address = said.get("issue_url") or said["pull_request_url"]
    return int(address.rpartition("/")[2])


# Deliveries of GitHub: https://docs.github.com/webhooks/webhook-events-and-payloads


def _repository(home: Repository) -> dict[str, Any]:
    return {"repository": {"id": home.id, "full_name": home.full_name}}


def _of_issue(home: Repository, number: int, action: str) -> tuple[str, dict[str, Any]]:
    issue = dict(home.values["issues"][number])
    if number in home.pulls:
        return "pull_request", {
            "action": action,
            "pull_request": issue | home.pulls[number],
            **_repository(home),
        }
    return "issues", {"action": action, "issue": issue, **_repository(home)}


def _of_comment(home: Repository, row: int, action: str) -> tuple[str, dict[str, Any]]:
    if row in home.values["comments"]:
        said = dict(home.values["comments"][row])
        issue = dict(home.values["issues"][_number_of(said)])
        return "issue_comment", {"action": action, "comment": said, "issue": issue, **_repository(home)}
    said = dict(home.values["review_comments"][row])
    _, body = _of_issue(home, _number_of(said), action)
    return "pull_request_review_comment", body | {"comment": said}


def _of_review(home: Repository, number: int, row: int, action: str) -> tuple[str, dict[str, Any]]:
    _, body = _of_issue(home, number, action)
    return "pull_request_review", body | {"review": dict(home.reviews[number][row])}
