"""Which projects a Jira account still sees: a 404 for an issue says nothing where its project is out of sight."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice

from extractors.jira_api import JiraApi
from schemas.errors import OutOfSight, QueryRefused

MAX_NAMED = 5  # projects in a message

_KEY = re.compile(r"(?P<project>[A-Za-z][A-Za-z0-9_]{0,254})-[0-9]+", re.ASCII)


class ProjectSight:
    """Asks for each project once: keep it no longer than one look at some issues.

    Attributes:
        lost: projects asked for that are out of sight, in order.
    """

    def __init__(self, api: JiraApi) -> None:
        self.lost: list[str] = []
        self._api = api
        self._seen: dict[str, bool] = {}

    def proves(self, issue_key: str) -> bool:
        """Whether an issue that was known by this key is gone when Jira has it no more: its project is in sight."""
        return _KEY.fullmatch(issue_key) is not None and not self.has_lost(issue_key)

    def has_lost(self, issue_key: str) -> bool:
        """Whether the project of an issue is out of sight; without a key there is no saying."""
        match = _KEY.fullmatch(issue_key)
        if match is None:
            return False
        project = match["project"].upper()
        if project not in self._seen:
            self._seen[project] = self._api.may_browse(project)
            if not self._seen[project]:
                self.lost.append(project)
        return not self._seen[project]

    def raise_lost(self) -> None:
        """Raises: OutOfSight: a project is."""
        if self.lost:
            raise OutOfSight(
                f'source "{self._api.source}": {_shown(self.lost)} not there, or hidden from the account of token: no'
                " issue goes for that; give the account Browse projects, or have projects name the others and run"
                " `headrace forget`"
            )


def refused_scope(api: JiraApi, error: QueryRefused, projects: Sequence[str]) -> QueryRefused:
    """Why the condition of a source is not understood: a project that is out of sight, else its filter."""
    lost = list(islice((each for each in projects if not api.may_browse(each)), MAX_NAMED + 1))
    if not lost:
        return QueryRefused(f"{error}: `jql` is not understood, or names what this account may not see")
    return QueryRefused(
        f'source "{api.source}": {_shown(lost)} not there, or hidden from the account of token: correct projects, or '
        "give the account Browse projects there"
    )


def _shown(projects: Sequence[str]) -> str:
    named = ", ".join(projects[:MAX_NAMED]) + (", ..." if len(projects) > MAX_NAMED else "")
    return f"project {named} is" if len(projects) == 1 else f"projects {named} are"
