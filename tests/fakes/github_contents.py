"""What the fake GitHub holds, and how it changes: repositories in memory, each record's body made once a change."""

from __future__ import annotations

import base64
import hashlib
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

API, WEB = "https://api.github.com", "https://github.com"
LISTS = ("issues", "comments", "review_comments")

Json = dict[str, Any]


def user(login: str) -> Json | None:
    """An account as REST shows it, with what is of no interest to anyone."""
    if not login:
        return None
    return {
        "login": login,
        "id": int.from_bytes(hashlib.blake2b(login.encode(), digest_size=4).digest()),
        "type": "Bot" if login.endswith("[bot]") else "User",
        "avatar_url": f"https://avatars.example/{login}",
        "html_url": f"{WEB}/{login}",
        "site_admin": False,
    }


def node_id(kind: str, row: int) -> str:
    return base64.b64encode(f"0{len(kind)}:{kind}{row}".encode()).decode()


@dataclass(slots=True)
class Listing:
    """Records by id, and their ids in the order of change."""

    bodies: dict[int, bytes] = field(default_factory=dict)
    updated: dict[int, str] = field(default_factory=dict)
    order: list[tuple[str, int]] = field(default_factory=list)

    def put(self, row: int, updated_at: str, body: bytes, *, hidden: bool = False) -> None:
        self.remove(row)
        self.bodies[row] = body
        if not hidden:
            self.updated[row] = updated_at
            insort(self.order, (updated_at, row))

    def hide(self, row: int) -> None:
        if row in self.updated:
            place = bisect_left(self.order, (self.updated.pop(row), row))
            del self.order[place]

    def remove(self, row: int) -> None:
        self.hide(row)
        self.bodies.pop(row, None)


@dataclass(slots=True)
class Repository:
    """One repository; rows of issues and pull requests are their numbers here.

    Args:
        pulls: number -> REST pull request.
        reviews: number -> id -> REST review.
        moved: number of an issue -> address of where it was transferred.
    """

    id: int
    full_name: str
    has_issues: bool = True
    has_pulls: bool = True
    visible: bool = True
    values: dict[str, dict[int, Json]] = field(default_factory=lambda: {name: {} for name in LISTS})
    lists: dict[str, Listing] = field(default_factory=lambda: {name: Listing() for name in LISTS})
    pulls: dict[int, Json] = field(default_factory=dict)
    reviews: dict[int, dict[int, Json]] = field(default_factory=dict)
    moved: dict[int, str] = field(default_factory=dict)
    deleted: set[int] = field(default_factory=set)
    last_number: int = 0


class GitHubContents:
    """Repositories, and what people do to them.

    Args:
        now: GitHub's clock.
    """

    def __init__(self, now: Callable[[], datetime]) -> None:
        self.now = now
        self.repositories: dict[int, Repository] = {}
        self.names: dict[str, int] = {}
        self._last_id = 1000

    def repository(self, full_name: str, **settings: Any) -> Repository:
        """A new repository; one of the same name is another from now on."""
        repository = Repository(self._new_id(), full_name, **settings)
        self.repositories[repository.id] = repository
        self.names[full_name.lower()] = repository.id
        return repository

    def rename(self, repository: Repository, full_name: str) -> None:
        """The old name leads to the new one, and so do all payloads."""
        old, repository.full_name = repository.full_name, full_name
        self.names[full_name.lower()] = repository.id
        for name, values in repository.values.items():
            for row, value in values.items():
                text = orjson.dumps(value).decode().replace(f"/{old}/", f"/{full_name}/")
                value.update(orjson.loads(text.replace(f'/{old}"', f'/{full_name}"')))
                self._list(repository, name, row)

    def create(self, repository: Repository, *, pull: bool = False, **fields: Any) -> int:
        """A new issue or pull request; its number."""
        repository.last_number += 1
        number, api = repository.last_number, f"{API}/repos/{repository.full_name}"
        row, kind = self._new_id(), "pull" if pull else "issues"
        issue = {
            "url": f"{api}/issues/{number}",
            "repository_url": api,
            "html_url": f"{WEB}/{repository.full_name}/{kind}/{number}",
            "id": row,
            "node_id": node_id("Issue", row),
            "number": number,
            "title": f"Title {number}",
            "body": None,
            "user": user("ines"),
            "labels": [],
            "state": "open",
            "state_reason": None,
            "locked": False,
            "assignee": None,
            "assignees": [],
            "milestone": None,
            "comments": 0,
            "created_at": self._moment(),
            "updated_at": self._moment(),
            "closed_at": None,
            "reactions": {"total_count": 0},
        } | fields
        if pull:
            row = self._new_id()
            issue["node_id"] = node_id("PullRequest", row)
            issue["draft"] = False
            issue["pull_request"] = {"url": f"{api}/pulls/{number}", "merged_at": None}
            repository.pulls[number] = {
                "id": row,
                "base": {"ref": "main", "repo": {"full_name": repository.full_name}},
                "head": {"ref": f"branch-{number}", "repo": None},
            }
            repository.reviews[number] = {}
        repository.values["issues"][number] = issue
        self._list(repository, "issues", number)
        return number

    def rest_pull(self, repository: Repository, number: int) -> Json:
        """As `/pulls` has it, which knows nothing of issues."""
        issue, pull = repository.values["issues"][number], repository.pulls[number]
        api = f"{API}/repos/{repository.full_name}"
        shared = {
            name: value
            for name, value in issue.items()
            if name not in ("pull_request", "repository_url", "state_reason", "reactions", "comments")
        }
        merged_at = (issue.get("pull_request") or {}).get("merged_at")
        return shared | {"url": f"{api}/pulls/{number}", "merged_at": merged_at} | pull

    def edit(self, repository: Repository, number: int, **fields: Any) -> None:
        self._change(repository, "issues", number, fields)

    def silent_update(self, repository: Repository, number: int, **fields: Any) -> None:
        """A change that leaves `updated_at` as it was."""
        repository.values["issues"][number].update(fields)
        self._list(repository, "issues", number)

    def comment(self, repository: Repository, number: int, body: str = "Well seen.", **fields: Any) -> int:
        row, api = self._new_id(), f"{API}/repos/{repository.full_name}"
        page = repository.values["issues"][number]["html_url"]
        value = self._said(row, body) | {
            "node_id": node_id("IssueComment", row),
            "url": f"{api}/issues/comments/{row}",
            "html_url": f"{page}#issuecomment-{row}",
            "issue_url": f"{api}/issues/{number}",
        }
        repository.values["comments"][row] = value | fields
        self._list(repository, "comments", row)
        self.edit(repository, number, comments=repository.values["issues"][number]["comments"] + 1)
        return row

    def review(
        self, repository: Repository, number: int, body: str = "Nearly.", state: str = "COMMENTED"
    ) -> int:
        row, api = self._new_id(), f"{API}/repos/{repository.full_name}"
        value = self._said(row, body) | {
            "html_url": f"{WEB}/{repository.full_name}/pull/{number}#pullrequestreview-{row}",
            "pull_request_url": f"{api}/pulls/{number}",
            "state": state,
            "commit_id": "0" * 40,
        }
        value["submitted_at"] = value.pop("created_at")
        del value["updated_at"]
        repository.reviews[number][row] = value
        self.edit(repository, number)
        return row

    def review_comment(self, repository: Repository, number: int, body: str = "Here.", **fields: Any) -> int:
        row, api = self._new_id(), f"{API}/repos/{repository.full_name}"
        value = self._said(row, body) | {
            "url": f"{api}/pulls/comments/{row}",
            "html_url": f"{WEB}/{repository.full_name}/pull/{number}#discussion_r{row}",
            "pull_request_url": f"{api}/pulls/{number}",
            "path": "pump.py",
            "line": None,
            "original_line": 3,
            "diff_hunk": "@@ -1 +1 @@\n-a\n+b",
            "commit_id": "0" * 40,
        }
        repository.values["review_comments"][row] = value | fields
        self._list(repository, "review_comments", row)
        self.edit(repository, number)
        return row

    def edit_comment(self, repository: Repository, row: int, body: str) -> None:
        name = "comments" if row in repository.values["comments"] else "review_comments"
        self._change(repository, name, row, {"body": body})

    def delete_comment(self, repository: Repository, row: int) -> None:
        """Moves no time of its issue."""
        for name in ("comments", "review_comments"):
            repository.values[name].pop(row, None)
            repository.lists[name].remove(row)

    def delete_review(self, repository: Repository, number: int, row: int) -> None:
        del repository.reviews[number][row]

    def delete(self, repository: Repository, number: int) -> None:
        """An issue and all that was said about it are gone; 410 from now on."""
        self._take_out(repository, number)
        repository.deleted.add(number)

    def transfer(self, repository: Repository, number: int, target: Repository) -> int:
        """An issue becomes a new one elsewhere, comments and all, and its old address leads there."""
        issue = repository.values["issues"][number]
        said = [
            c for c in repository.values["comments"].values() if c["issue_url"].endswith(f"/issues/{number}")
        ]
        kept = {name: issue[name] for name in ("title", "body", "user", "state", "labels", "created_at")}
        self._take_out(repository, number)
        found = self.create(target, **kept)
        for comment in said:
            self.comment(target, found, comment["body"], user=comment["user"])
        repository.moved[number] = f"/repos/{target.full_name}/issues/{found}"
        return found

    def vanish(self, repository: Repository, number: int) -> None:
        """Not listed any more, yet there."""
        repository.lists["issues"].hide(number)

    def show(self, repository: Repository, issues: Iterable[Json], pulls: Iterable[Json]) -> None:
        """This is the listing now; what it lacks has vanished, not been deleted."""
        repository.pulls = {pull["number"]: pull for pull in pulls}
        repository.reviews = {number: {} for number in repository.pulls}
        listed = {issue["number"]: issue for issue in issues}
        for number, issue in listed.items():
            if (
                repository.values["issues"].get(number) is not issue
                or number not in repository.lists["issues"].updated
            ):
                repository.values["issues"][number] = issue
                self._list(repository, "issues", number)
        for number in repository.values["issues"].keys() - listed.keys():
            self.vanish(repository, number)

    def _take_out(self, repository: Repository, number: int) -> None:
        ending = f"/{number}"
        for name, address in (("comments", "issue_url"), ("review_comments", "pull_request_url")):
            rows = [row for row, value in repository.values[name].items() if value[address].endswith(ending)]
            for row in rows:
                self.delete_comment(repository, row)
        del repository.values["issues"][number]
        repository.lists["issues"].remove(number)
        repository.pulls.pop(number, None)
        repository.reviews.pop(number, None)

    def _said(self, row: int, body: str) -> Json:
        moment = self._moment()
        return {"id": row, "body": body, "user": user("tom"), "created_at": moment, "updated_at": moment}

    def _change(self, repository: Repository, name: str, row: int, fields: Mapping[str, Any]) -> None:
        repository.values[name][row].update({"updated_at": self._moment()} | dict(fields))
        self._list(repository, name, row)

    def _list(self, repository: Repository, name: str, row: int) -> None:
        value, listing = repository.values[name][row], repository.lists[name]
        listing.put(row, value["updated_at"], orjson.dumps(value))

    def _moment(self) -> str:
        return f"{self.now().astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"

    def _new_id(self) -> int:
        self._last_id += 1
        return self._last_id
