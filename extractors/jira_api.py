"""Requests to a Jira site, Cloud or Data Center, one at a time; an answer as to a stranger is a refusal.

Cloud: https://developer.atlassian.com/cloud/jira/platform/rest/v3/
Data Center: https://developer.atlassian.com/server/jira/platform/rest/
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal
from zoneinfo import ZoneInfo

from extractors import jira_jql
from extractors.http import Answer, ApiSession
from extractors.jira_payloads import Value, issue_id
from extractors.jira_session import check_known
from schemas.errors import BrokenAnswer, WrongAddress

Deployment = Literal["cloud", "data_center"]

BROWSE = "BROWSE_PROJECTS"
EPIC_LINK = "com.pyxis.greenhopper.jira:gh-epic-link"


class JiraApi:
    """A site, as its account sees it.

    Args:
        source: name of the configured source, for messages.
        has_token: an answer as to a stranger is a refusal then.
        deployment: None asks the site.
    Attributes:
        zone: of the account, which its queries are read in; None where it is not known.
        epic_field: id of the field that names an issue's epic, which Cloud calls its parent; "" for none.
        in_minutes: the site refuses milliseconds in queries.
        told_at: the time by the site's own clock when it last answered; None where it does not say.
    Raises:
        AccessRefused: the credentials are not accepted.
    """

    def __init__(
        self, session: ApiSession, source: str, *, has_token: bool, deployment: Deployment | None
    ) -> None:
        self.source = source
        self._session = session
        self._has_token = has_token
        self._told = deployment
        self.told_at: datetime | None = None
        self.zone = _zone(self._ask("rest/api/2/myself")) if has_token else None
        self.is_cloud = (deployment or self.ask_deployment()) == "cloud"
        self.epic_field = "" if self.is_cloud else _epic_field(self._ask("rest/api/2/field"))
        self.in_minutes = False
        self.search_path = "search/jql" if self.is_cloud else "search"
        self._root = "rest/api/3" if self.is_cloud else "rest/api/2"

    def ask_deployment(self) -> Deployment:
        """Asks for as little as can be: it fails only where the whole site is out of order."""
        found = self._ask("rest/api/2/serverInfo")
        return (
            "cloud" if isinstance(found, dict) and found.get("deploymentType") == "Cloud" else "data_center"
        )

    def unknown_fields(self, ids: Collection[str]) -> list[str]:
        """Those of some fields that the site does not have, or not for this account; none where it does not say."""
        if not ids:
            return []
        found = self.get("field", {}, tolerated=(401, 403, 404)).body
        known = (
            {each.get("id") for each in found if isinstance(each, dict)} if isinstance(found, list) else ids
        )
        return [each for each in ids if each not in known]

    def get(self, path: str, params: Mapping[str, str | int], *, tolerated: tuple[int, ...] = ()) -> Answer:
        """Raises: as `ApiSession.get`, and AccessRefused for an answer as to a stranger."""
        return self._heard(self._session.get(f"{self._root}/{path}", params, tolerated=tolerated))

    def post(self, path: str, body: Any) -> Answer:
        """Raises: as `get`, and WrongAddress that names `deployment` where that is not what the site is."""
        try:
            return self._heard(self._session.post(f"{self._root}/{path}", body))
        except WrongAddress:
            if self._told in (None, self.ask_deployment()):
                raise
            raise WrongAddress(
                f'source "{self.source}": Jira does not answer as {self._told}: correct deployment, or leave it out'
            ) from None

    def may_browse(self, project: str) -> bool:
        """Whether the account sees a project, by its key, and not merely its settings.

        Raises:
            BrokenAnswer: the answer does not say.
        """
        params = {"projectKey": project, "permissions": BROWSE}
        answer = self.get("mypermissions", params, tolerated=(403, 404))
        if answer.status != 200:
            return False
        permissions = answer.body.get("permissions") if isinstance(answer.body, dict) else None
        browse = permissions.get(BROWSE) if isinstance(permissions, dict) else None
        if not isinstance(browse, dict) or not isinstance(browse.get("havePermission"), bool):
            raise BrokenAnswer(f"{self.source}: Jira does not say whether project {project} may be browsed")
        return bool(browse["havePermission"])

    def among(self, within: str, ids: Sequence[str], fields: list[str]) -> dict[str, Any]:
        """The body of a search for some ids."""
        query = {"jql": jira_jql.among(within, ids), "fields": fields, "maxResults": len(ids)}
        return query if self.is_cloud else {**query, "validateQuery": False}  # an id may be gone

    def _ask(self, path: str) -> Any:
        return self._heard(self._session.get(path)).body

    def _heard(self, answer: Answer) -> Answer:
        if self._has_token:
            check_known(answer, self.source)
        self.told_at = _date(answer) or self.told_at
        return answer


def issues_of(answer: Answer) -> list[Value]:
    """The issues in an answer.

    Raises:
        BrokenAnswer: it has no list of issues, or one of them has no id.
    """
    found = answer.body.get("issues") if isinstance(answer.body, dict) else None
    if not isinstance(found, list) or not all(issue_id(each) for each in found):
        raise BrokenAnswer(f"the answer of Jira at {answer.url} has no list of issues with their ids")
    return found


def _date(answer: Answer) -> datetime | None:
    try:
        told = parsedate_to_datetime(answer.headers.get("date", ""))
    except (ValueError, TypeError, OverflowError):
        return None
    return told if told.tzinfo else None


def _epic_field(fields: Any) -> str:
    for each in fields if isinstance(fields, list) else ():
        schema = each.get("schema") if isinstance(each, dict) else None
        if isinstance(schema, dict) and schema.get("custom") == EPIC_LINK and isinstance(each.get("id"), str):
            return str(each["id"])
    return ""


def _zone(account: Any) -> ZoneInfo | None:
    """That of the account; None where it names none that is known here."""
    name = account.get("timeZone") if isinstance(account, dict) else None
    try:
        return ZoneInfo(name) if isinstance(name, str) else None
    except (ValueError, OSError):  # what is no name of a zone; ZoneInfoNotFoundError is a KeyError
        return None
    except KeyError:
        return None
