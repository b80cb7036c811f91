"""A live Jira site as a source: its changes by the time they were made, all of it now and then, one by one on demand.

A cursor has two parts. `mark_ms` is a moment, taken from the issues seen, up to which every change was given; the
next reading starts a little before it, since the search lags behind, until that had time to catch up. A sweep lists
everything once more in the order in which issues were made, which no change disturbs; it goes on from the issue it
came to. Neither needs a page token.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

import orjson
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from extractors import jira_jql
from extractors.base import Cursor, OnWait, Page, Reference
from extractors.jira_api import JiraApi
from extractors.jira_issues import Found, JiraIssues
from extractors.jira_payloads import Reading, Value, canonical, issue_id, moment_ms, updated_at
from extractors.jira_projects import ProjectSight
from extractors.jira_search import JiraSearch, Row
from extractors.jira_session import open_session
from schemas.documents import BEGINNING, DeadLetter, Format, Kind, SourceRecord, Tombstone
from schemas.errors import InvalidPayload, PipelineError, QueryRefused, RetryableError, WrongAddress
from schemas.ids import digest
from schemas.sources import JiraSource

CENSUS_REFERENCES = 500
MAX_GIVEN = 500  # issues of the overlap that are remembered, the newest
SETTLED = timedelta(seconds=60)  # since a change: the next one has another time, however coarse
GONE = (404, 410)
OUTSIDE = "left the projects or the filter of this source"

_log = logging.getLogger(__name__)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Sweep(_Part):
    """A listing of everything under way: it goes on with what was made at `created_ms`."""

    began_at: AwareDatetime
    created_ms: int = Field(default=0, ge=0)


class Place(_Part):
    """The cursor of a site.

    Args:
        scope: digest of the condition that its issues meet: another one asks for a sweep.
        mark_ms: every change up to here was given; None before an issue was seen.
        marked_at: when the mark came to be there, by our clock: only how long ago that is counts.
        settled_ms: every change up to here was given when the search had time to learn of it: no poll starts earlier.
        swept_at: when the last whole sweep began.
        given: id -> `updated` in ms of issues that were given like that: listed so again, they are passed over.
    """

    scope: str = ""
    mark_ms: int | None = None
    marked_at: AwareDatetime | None = None
    settled_ms: int = 0
    swept_at: AwareDatetime | None = None
    sweep: Sweep | None = None
    given: dict[str, int] = Field(default_factory=dict)

    def has(self, row: Row) -> bool:
        """Whether an issue was given as it is listed."""
        return row.moment_ms is not None and self.given.get(row.id) == row.moment_ms

    @property
    def cursor(self) -> Cursor:
        return self.model_dump(mode="json", exclude_none=True)


@dataclass(frozen=True, slots=True)
class _Asked:
    site: JiraApi
    search: JiraSearch
    issues: JiraIssues


class JiraSite:
    """Issues of a site with their comments; what is asked for, `settings` says.

    Args:
        client: whose issues these are.
        now: the time, UTC, as of which issues are seen. No query is made from it.
        sleep: waits for limits.
    Raises:
        BadConfig: `jql` cannot stand in a condition, or the token is not where the configuration says.
        SourceUnreachable: the proxy or certificates named in the environment cannot be used.
    """

    def __init__(
        self,
        settings: JiraSource,
        client: str,
        on_wait: OnWait,
        *,
        now: Callable[[], datetime],
        sleep: Callable[[float], None],
    ) -> None:
        self.name = settings.name
        self._settings = settings
        self._client = client
        self._now = now
        self._within = jira_jql.scope(settings.projects, settings.jql, f"sources.{settings.name}.jql")
        self._reading = Reading(
            tuple(settings.custom_fields), settings.comments, settings.restricted_comments
        )
        self._session = open_session(settings, on_wait, now, sleep)

    @property
    def requests(self) -> int:
        """Made so far."""
        return self._session.requests

    def close(self) -> None:
        """Close the connection; nothing can be asked any more."""
        self._session.close()

    def pages(self, cursor: Cursor | None) -> Iterator[Page]:
        """Yield what changed since `cursor`, all of it when a sweep is due; the last page is empty.

        Raises:
            SetupError: the site refuses the credentials or the query, or is not a Jira.
            RetryableError: it is out of order. Pages given so far stand.
        """
        place = self._place(cursor)
        api = self._asked
        if place.mark_ms is None:
            newest_ms = api.search.newest_ms()
            if newest_ms is None:
                _log.warning("%s: no issue is to be seen: check projects, jql and token", self.name)
                yield Page(cursor=place.cursor)
                return
            place = self._marked(api, place, newest_ms, None)
        else:
            place = yield from self._changes(api, place)
        if place.sweep is not None or self._is_sweep_due(place):
            place = yield from self._everything(api, place)
        yield Page(cursor=place.cursor)

    def estimate(self, cursor: Cursor | None) -> int | None:
        """Issues still to come, as Jira counts them; None when it does not."""
        place = self._place(cursor)
        try:
            api = self._asked
            if place.mark_ms is None or place.sweep is not None or self._is_sweep_due(place):
                return api.search.count("created", place.sweep.created_ms if place.sweep else 0)
            return api.search.count("updated", self._start_ms(place))
        except (RetryableError, QueryRefused, WrongAddress):
            return None

    def census(self) -> Iterator[Sequence[Reference]]:
        """Every issue that this account sees within the projects and the filter.

        Raises:
            SetupError, RetryableError: the listing did not come to its end.
        """
        api = self._asked
        for page in api.search.ids("created", 0):
            references = [Reference(Kind.ISSUE, row.id, row.key) for row in page.rows]
            for start in range(0, len(references), CENSUS_REFERENCES):
                yield references[start : start + CENSUS_REFERENCES]

    def look_again(self, references: Sequence[Reference]) -> Iterator[Page]:
        """Look at issues by id. Gone is what Jira has no more for this account, and what left the projects or filter.

        Jira says 404 of what it hides, too. So a 404 counts only where the account still sees the issue's project, by
        the key that it was known by. An issue that a security level hides in a project in sight is gone: nothing
        tells it from a deleted one, and what the account may not see is not for an index made with it. Nothing is
        said of an issue that is refused (403) or that the search does not know, nor of what is no issue.

        Raises:
            OutOfSight: after all pages: of issues that are not there the project is not there either, or is hidden.
            SetupError, RetryableError: the site cannot be asked, or refuses the credentials.
        """
        keys: dict[str, str] = {}
        for each in filter(_is_issue, references):
            keys[each.native_id] = each.key or keys.get(each.native_id, "")
        if not keys:
            return
        api = self._asked
        sight = ProjectSight(api.site)
        for some in api.issues.portions(list(keys)):
            yield self._looked_at(api, sight, some, keys)
        sight.raise_lost()

    def _looked_at(
        self, api: _Asked, sight: ProjectSight, ids: Sequence[str], keys: Mapping[str, str]
    ) -> Page:
        observed_at = self._now()
        found = api.issues.fetch(ids)
        for number in ids:
            if not found.knows(number) and not sight.has_lost(keys[number]):
                found.add(api.issues.look(number))
        inside, outside = api.search.sides(list(found.issues))
        reasons = dict.fromkeys(outside, OUTSIDE)
        for number, status in found.absent.items():
            if status in GONE and sight.proves(keys[number]):
                reasons[number] = f"Jira answers {status}: deleted, or hidden from this account"
        here = [number for number in ids if number in inside or number in found.unreadable]
        page = self._page(here, found, observed_at, Place())
        tombstones = tuple(
            Tombstone(self._client, self.name, Kind.ISSUE, number, observed_at, reasons[number])
            for number in ids
            if number in reasons
        )
        return Page(page.records, tombstones, page.dead_letters)

    def _changes(self, api: _Asked, place: Place) -> Generator[Page, None, Place]:
        """What changed since the mark, and a little before it; gives the place after that.

        An issue that changed once more while it was listed may say a later time than that of its place in the order,
        so the mark follows the earliest of some issues. At the end it is the latest seen, but for a listing of
        several pages no later than what was known when the first was made.
        """
        began_at = self._now()
        latest_ms = place.mark_ms or 0
        ceiling_ms: int | None = None
        for page in api.search.rows("updated", self._start_ms(place)):
            if page.more and ceiling_ms is None:
                ceiling_ms = api.search.newest_ms()
            latest_ms = max([latest_ms, *_moments(page.rows)])
            for rows in api.issues.portions([row for row in page.rows if not place.has(row)]):
                ids = [row.id for row in rows]
                observed_at = self._now()
                found = api.issues.fetch(ids)
                place = self._marked(api, place, min(_moments(rows), default=0), ceiling_ms)
                place = _with_given(place, found, api.site.told_at or observed_at)
                yield self._page(ids, found, observed_at, place)
        return self._settled(self._marked(api, place, latest_ms, ceiling_ms), began_at)

    def _everything(self, api: _Asked, place: Place) -> Generator[Page, None, Place]:
        """All issues, oldest first, with a look at what changed every now and then; gives the place after that."""
        sweep = place.sweep or Sweep(began_at=self._now())
        looked_at = self._now()
        for page in api.search.ids("created", sweep.created_ms):
            for ids in api.issues.portions([row.id for row in page.rows]):
                observed_at = self._now()
                found = api.issues.fetch(ids)
                moments = [moment_ms(issue, "created") or 0 for issue in found.issues.values()]
                sweep = Sweep(began_at=sweep.began_at, created_ms=max([sweep.created_ms, *moments]))
                place = place.model_copy(update={"sweep": sweep})
                yield self._page(ids, found, observed_at, place)
                if self._now() - looked_at >= timedelta(seconds=self._settings.poll_interval_s):
                    place = yield from self._changes(api, place)
                    looked_at = self._now()
        return place.model_copy(update={"swept_at": sweep.began_at, "sweep": None})

    def _page(self, ids: Sequence[str], found: Found, observed_at: datetime, place: Place) -> Page:
        """What was learnt of `ids`. Those that are not there any more are only counted: a listing proves nothing."""
        records, dead_letters, gone = [], [], 0
        for number in ids:
            if number in found.issues:
                try:
                    records.append(self._record(number, found.issues[number], observed_at))
                except InvalidPayload as error:
                    dead_letters.append(self._dead_letter(number, error))
            elif number in found.unreadable:
                dead_letters.append(self._dead_letter(number, found.unreadable[number]))
            else:
                gone += 1
        skipped = {"gone": gone} if gone else {}
        return Page(tuple(records), (), tuple(dead_letters), skipped, place.cursor)

    def _record(self, number: str, issue: Value, observed_at: datetime) -> SourceRecord:
        return SourceRecord(
            client=self._client,
            source=self.name,
            format=Format.JIRA_ISSUE,
            kind=Kind.ISSUE,
            native_id=number,
            payload=canonical(issue, self._reading),
            updated_at=updated_at(issue),
            observed_at=observed_at,
            locator=f"{self._settings.site_url}: issue {number}",
        )

    def _dead_letter(self, number: str, error: PipelineError) -> DeadLetter:
        """Holds the id alone: `look_again` is how it is tried once more."""
        locator = f"{self._settings.site_url}: issue {number}"
        record = SourceRecord(
            self._client,
            self.name,
            Format.UNKNOWN,
            Kind.ISSUE,
            number,
            orjson.dumps({"id": number}),
            BEGINNING,
            locator=locator,
        )
        return DeadLetter(record, "read", type(error).__name__, str(error), isinstance(error, RetryableError))

    def _place(self, cursor: Cursor | None) -> Place:
        scope = digest(self._within.encode()).hex()
        try:
            place = Place.model_validate(cursor or {"scope": scope})
        except ValidationError:
            _log.warning("%s: the cursor is none of a Jira site: reading from the beginning", self.name)
            return Place(scope=scope)
        if place.scope != scope:  # what is asked for now may hold issues that did not change for long
            return Place(scope=scope, mark_ms=place.mark_ms, marked_at=place.marked_at)
        return place

    def _is_sweep_due(self, place: Place) -> bool:
        if place.swept_at is None:
            return True
        age = self._now() - place.swept_at
        return not timedelta(0) <= age < timedelta(hours=self._settings.sweep_interval_h)

    def _start_ms(self, place: Place) -> int:
        return max(place.settled_ms, (place.mark_ms or 0) - round(self._settings.overlap_s * 1000))

    def _marked(self, api: _Asked, place: Place, reached_ms: int, ceiling_ms: int | None) -> Place:
        """The mark moves forward only, and never beyond the site's now, whatever time an issue claims."""
        now = self._now()
        bounds = [reached_ms, round((api.site.told_at or now).timestamp() * 1000)]
        reached_ms = min(bounds if ceiling_ms is None else [*bounds, ceiling_ms])
        if place.mark_ms is not None and reached_ms <= place.mark_ms:
            return place
        return place.model_copy(update={"mark_ms": reached_ms, "marked_at": now})

    def _settled(self, place: Place, began_at: datetime) -> Place:
        """After a whole listing. One that began so much later than the mark was set has seen what was late before it.

        Without that, what changed in the last minutes before a quiet night would be listed at every poll of it.
        """
        overlap = timedelta(seconds=self._settings.overlap_s)
        if place.marked_at is None or began_at - place.marked_at < overlap:
            return place
        return place.model_copy(update={"settled_ms": place.mark_ms})

    @cached_property
    def _asked(self) -> _Asked:
        """The site is asked what it is, and whether it knows the account, when something is first asked of it."""
        settings = self._settings
        has_token = settings.token is not None
        api = JiraApi(self._session, self.name, has_token=has_token, deployment=settings.deployment)
        for unknown in api.unknown_fields(settings.custom_fields):
            _log.warning(
                "%s: Jira has no field %s that this account sees: check custom_fields", self.name, unknown
            )
        search = JiraSearch(api, self._within, settings.projects)
        return _Asked(api, search, JiraIssues(api, self._reading))


def _moments(rows: Sequence[Row]) -> list[int]:
    return [row.moment_ms for row in rows if row.moment_ms is not None]


def _with_given(place: Place, found: Found, seen_at: datetime) -> Place:
    settled_ms = round((seen_at - SETTLED).timestamp() * 1000)
    moments = ((number, moment_ms(issue, "updated")) for number, issue in found.issues.items())
    given = place.given | {number: ms for number, ms in moments if ms is not None and ms <= settled_ms}
    newest = sorted(given.items(), key=lambda item: item[1])[-MAX_GIVEN:]
    return place.model_copy(update={"given": dict(newest)})


def _is_issue(reference: Reference) -> bool:
    return reference.kind is Kind.ISSUE and issue_id({"id": reference.native_id}) != ""
