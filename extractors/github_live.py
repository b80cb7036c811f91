"""Repositories on GitHub as a source that stays true: polled by time of change, swept whole, asked about each id."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from functools import partial

from extractors import github_listing as listing
from extractors.base import Cursor, OnWait, Page, Reference
from extractors.github_api import answered_at, open_session
from extractors.github_failures import Failures, naming
from extractors.github_listing import COMMENTS, ISSUES, PULLS, REVIEW_COMMENTS, Stream
from extractors.github_lookup import Gone, Lookup, Unsaid
from extractors.github_payloads import Item, canonical, is_pending, item_of
from extractors.github_progress import Pass, Progress, Sweep, load, save, state_of
from extractors.github_pulls import PullReader
from extractors.http import Answer
from schemas.documents import BEGINNING, DeadLetter, Format, Kind, SourceRecord, Tombstone
from schemas.errors import BrokenAnswer, InvalidPayload, WrongAddress
from schemas.ids import digest
from schemas.sources import GitHubSource

PAGE_RECORDS = 500
LOOKED_AT_ONCE = 100  # references for each page

_log = logging.getLogger(__name__)

Outcome = SourceRecord | DeadLetter


class GitHubRepositories:
    """Issues, pull requests, comments, review comments and reviews of the configured repositories.

    A poll asks each list for what changed since shortly before the newest change that was given; an unchanged
    list answers 304 and costs nothing. A sweep lists everything from the beginning, for what changed without
    moving its time. While one runs, polls go on at their interval.

    Args:
        client: owner of the documents.
        on_wait: told before a limit is waited for.
    Raises:
        BadConfig: a secret is not where the configuration says.
        SourceUnreachable: the proxy or certificates named in the environment cannot be used.
    """

    def __init__(
        self,
        settings: GitHubSource,
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
        self._opened = ExitStack()
        self._open = partial(open_session, settings, on_wait, now, sleep)
        self._ask_as_configured()
        self._streams = (ISSUES, COMMENTS, REVIEW_COMMENTS) if settings.comments else (ISSUES,)
        self._told: set[str] = set()
        self._failures = Failures(settings.name, timedelta(seconds=settings.poll_interval_s), now)

    def _ask_as_configured(self) -> None:
        """With credentials as they are now, over a connection of its own."""
        self._opened.close()
        self._session = self._opened.enter_context(self._open())
        has_token = self._settings.token is not None or self._settings.app_id is not None
        self._pulls = PullReader(self._session, self._settings.api_url, self.name, graphql=has_token)

    def close(self) -> None:
        """Close the connections; nothing can be asked any more."""
        self._opened.close()

    def pages(self, cursor: Cursor | None) -> Iterator[Page]:
        """Yield what changed since `cursor`, then, where a sweep is due, everything. No page when nothing changed.

        A repository that cannot be read does not keep the others from being read. The next call leaves it alone for
        a while, longer each time; when it is asked again, credentials are read anew.

        Raises:
            PartUnread: last, when some repositories could not be read.
            PipelineError: the source cannot be asked, or refuses; see `ApiSession.get`.
        """
        progress = load(cursor, self._settings.repositories)
        if self._failures.begin():
            self._ask_as_configured()
        yield from self._polls(progress)
        polled_at = self._now()
        interval = timedelta(seconds=self._settings.poll_interval_s)
        sweep_interval = timedelta(hours=self._settings.sweep_interval_h)
        for repository in self._settings.repositories:
            if not progress[repository.lower()].is_due(self._now(), sweep_interval):
                continue
            for page in self._unless_failed(repository, self._sweep(progress, repository)):
                yield page
                if self._now() - polled_at >= interval:
                    yield from self._polls(progress)
                    polled_at = self._now()
        self._failures.end(self._settings.repositories)

    def check(self) -> str:
        """Ask for the beginning of each repository's lists.

        Raises:
            PipelineError: as `pages`.
        """
        failures = Failures(self.name, timedelta(0), self._now)
        for repository in self._settings.repositories:
            with failures.held_back(repository):
                for stream in self._streams:
                    self._first_page(repository, stream, None)
        failures.end(self._settings.repositories)
        count = len(self._settings.repositories)
        return f"{count} repositories, readable" if count > 1 else "readable"

    def estimate(self, cursor: Cursor | None) -> int | None:
        """Unknown: lists do not say how long they are."""
        return None

    def census(self) -> Iterator[Sequence[Reference]]:
        """Every issue, pull request, comment, review comment and review there is now.

        Raises:
            PipelineError: a list could not be read to its end.
        """
        for repository in self._settings.repositories:
            with naming(repository):
                yield from self._census_of(repository)

    def _census_of(self, repository: str) -> Iterator[list[Reference]]:
        for wanted in self._streams:
            stream, answer = self._first_page(repository, wanted, None)
            if answer is None:
                continue
            place = self._place(repository)
            for page in listing.gathered(listing.pages(self._session, place, stream, None, answer)):
                if page.unreadable:
                    raise self._torn(repository, stream)
                yield [_reference(item) for item in page.items]
                yield from self._census_of_reviews(repository, page.items)

    def look_again(self, references: Sequence[Reference]) -> Iterator[Page]:
        """Look at each by itself: a record, a tombstone, or counted as skipped when nothing can be said of it.

        Raises:
            PipelineError: the source cannot be asked, or refuses.
        """
        lookup = Lookup(self._session, self._settings.repositories)
        for start in range(0, len(references), LOOKED_AT_ONCE):
            found: list[Item] = []
            tombstones: list[Tombstone] = []
            skipped = Counter[str]()
            for reference in references[start : start + LOOKED_AT_ONCE]:
                match lookup.look(reference):
                    case Item() as item:
                        found.append(item)
                    case Gone(reason):
                        tombstones.append(self._tombstone(reference, reason))
                    case Unsaid(reason):
                        skipped[reason] += 1
            pulls = [item for item in found if item.kind is Kind.PULL]
            others = [item for item in found if item.kind is not Kind.PULL]
            others += [pull.item for pull in self._pulls.read(pulls, reviews=False)]
            yield Page(tuple(map(self._record, others)), tuple(tombstones), skipped=dict(skipped))

    def _polls(self, progress: Progress) -> Iterator[Page]:
        for repository in self._settings.repositories:
            for stream in (*self._streams, PULLS):
                yield from self._unless_failed(repository, self._poll(progress, repository, stream))

    def _unless_failed(self, repository: str, pages: Iterator[Page]) -> Iterator[Page]:
        """Pages of a repository; none any more once it failed."""
        while repository not in self._failures:
            page = None
            with self._failures.held_back(repository):
                page = next(pages, None)
            if page is None:
                return
            yield page

    def _poll(self, progress: Progress, repository: str, stream: Stream) -> Iterator[Page]:
        marks = progress[repository.lower()].marks
        mark = marks.get(stream.name)
        if mark is None:
            return
        answer = self._ask(repository, stream, mark.since, mark.etag)
        if answer is None:
            del marks[stream.name]  # the next sweep asks again
            if stream is ISSUES:
                progress[repository.lower()].swept_at = None  # now, for what is in its place
            yield Page(cursor=save(progress))
        elif answer.status != 304:
            yield from self._read(progress, repository, stream, mark.since, answer, mark.given)

    def _sweep(self, progress: Progress, repository: str) -> Iterator[Page]:
        state = progress[repository.lower()]
        names = [stream.name for stream in self._streams]
        if state.sweep is None or state.sweep.stream not in names:
            state.sweep = Sweep(self._now(), names[0])
        for stream in self._streams[names.index(state.sweep.stream) :]:
            since = state.sweep.since if state.sweep is not None else None
            found, answer = self._first_page(repository, stream, since)
            if stream is ISSUES:  # one of the two is in the place of the other
                state.marks.pop(PULLS.name if found is ISSUES else ISSUES.name, None)
            if answer is not None:
                yield from self._read(progress, repository, found, since, answer, None)
                continue
            state.marks.pop(found.name, None)
            state.swept(names)
            yield Page(cursor=save(progress))

    def _read(
        self,
        progress: Progress,
        repository: str,
        stream: Stream,
        since: datetime | None,
        answer: Answer,
        given: dict[str, str] | None,
    ) -> Iterator[Page]:
        """A list from `since` on, to its end.

        Args:
            given: what a poll gave out before and leaves out now; None in a sweep.
        """
        state = progress[repository.lower()]
        overlap = timedelta(seconds=self._settings.overlap_s)
        etag = answer.headers.get("etag")
        began = save(progress)
        reading = Pass(since, etag, answered_at(answer.headers, self._now()), overlap)
        place = self._place(repository)
        for page in listing.gathered(listing.pages(self._session, place, stream, since, answer)):
            before = save(progress)
            fresh = [item for item in page.items if not given or given.get(item.native_id) != state_of(item)]
            outcomes, skipped, halves = self._outcomes(fresh)
            outcomes += [self._dead_letter(value, repository, stream) for value in page.unreadable]
            reading.add(page.items, halves)
            mark = state.marks.get(stream.name)
            if page.is_last:
                state.marks[stream.name] = reading.mark(is_only=page.is_only)
                if given is None:
                    state.swept([stream.name for stream in self._streams])
            elif given is None and state.sweep is not None:
                state.sweep.since = page.resume
            elif mark is not None:
                mark.since, mark.etag, mark.given = page.resume, None, {}
            after = save(progress)
            if outcomes or skipped or (page.is_last and after != began):
                yield from _cut(outcomes, skipped, before, after)

    def _outcomes(self, items: Sequence[Item]) -> tuple[list[Outcome], Counter[str], set[str]]:
        """Records of listed items, pull requests with their reviews; reasons of what is none of ours.

        Returns:
            Last, native ids of pull requests whose branches could not be had.
        """
        outcomes: list[Outcome] = [self._record(item) for item in items if item.kind is not Kind.PULL]
        skipped, halves = Counter[str](), set[str]()
        pulls = [item for item in items if item.kind is Kind.PULL]
        for pull in self._pulls.read(pulls, reviews=self._settings.comments):
            outcomes.append(self._record(pull.item))
            if pull.item.format is not Format.GITHUB_PULL:
                halves.add(pull.item.native_id)
            for review in pull.reviews:
                item = item_of(review)
                if is_pending(review):
                    skipped["pending review"] += 1
                elif item is None:
                    outcomes.append(self._dead_letter(review, pull.item.repository, ISSUES))
                else:
                    outcomes.append(self._record(item))
        return outcomes, skipped, halves

    def _census_of_reviews(self, repository: str, items: Sequence[Item]) -> Iterator[list[Reference]]:
        pulls = [item for item in items if item.kind is Kind.PULL] if self._settings.comments else []
        for pull in self._pulls.read(pulls, reviews=True):
            reviews = [item_of(review) for review in pull.reviews if not is_pending(review)]
            if None in reviews:
                raise self._torn(repository, ISSUES)
            yield [_reference(item) for item in reviews if item is not None]

    def _first_page(
        self, repository: str, stream: Stream, since: datetime | None
    ) -> tuple[Stream, Answer | None]:
        """Of a list, or of that of pull requests where issues are switched off; with which of them it is."""
        answer = self._ask(repository, stream, since, None)
        if answer is None and stream is ISSUES:
            return PULLS, self._ask(repository, PULLS, since, None)
        return stream, answer

    def _ask(
        self, repository: str, stream: Stream, since: datetime | None, etag: str | None
    ) -> Answer | None:
        """The first page of a list; None when the repository is there and has no such list.

        Raises:
            WrongAddress: the repository is not there, or keeps the list from this token.
        """
        answer = listing.ask(self._session, repository, stream, since, etag)
        if answer.redirected:
            self._tell(repository, "has another name now: change `repositories`")
        if answer.status not in listing.NO_LIST:
            return answer
        if answer.status == 451:
            raise WrongAddress(
                f"{self._place(repository)} is blocked for legal reasons (HTTP 451): take it out of `repositories`"
            )
        home = self._session.get(f"/repos/{repository}", tolerated=(404,))
        if home.status == 404:
            raise WrongAddress(
                f"{self._place(repository)} is not there, or not for this token: "
                "check `repositories` and `token`, and `api_url` if none is found"
            )
        if answer.status == 404 and _is_switched_on(home.body, stream):
            raise WrongAddress(
                f"{self._place(repository)} is there, but not its list of {stream.name}: "
                "give `token` read access to issues and pull requests"
            )
        why = "it is empty" if answer.status == 409 else "they are switched off"
        self._tell(repository, f"has no list of {stream.name} (HTTP {answer.status}): {why}")
        return None

    def _tell(self, repository: str, what: str) -> None:
        """Say it once, not at every poll."""
        line = f"{self._place(repository)} {what}"
        if line not in self._told:
            self._told.add(line)
            _log.warning("%s", line)

    def _place(self, repository: str) -> str:
        return f'source "{self.name}": {repository}'

    def _torn(self, repository: str, stream: Stream) -> BrokenAnswer:
        return BrokenAnswer(
            f"{self._place(repository)}: a list of {stream.name} has what is no record: try again later"
        )

    def _record(self, item: Item) -> SourceRecord:
        return SourceRecord(
            self._client,
            self.name,
            item.format,
            item.kind,
            item.native_id,
            item.payload,
            item.updated_at,
            self._now(),
            item.key,
        )

    def _tombstone(self, reference: Reference, reason: str) -> Tombstone:
        return Tombstone(self._client, self.name, reference.kind, reference.native_id, self._now(), reason)

    def _dead_letter(self, value: object, repository: str, stream: Stream) -> DeadLetter:
        payload = canonical(value)
        locator = f"{repository} {stream.name} {digest(payload).hex()[:12]}"
        record = SourceRecord(
            self._client, self.name, Format.UNKNOWN, Kind.ISSUE, locator, payload, BEGINNING, locator=locator
        )
        error = InvalidPayload("(record)", "an issue, pull request, comment or review of the REST API")
        return DeadLetter(record, "read", type(error).__name__, str(error), error.retriable)


def _reference(item: Item) -> Reference:
    return Reference(item.kind, item.native_id, item.key)


def _is_switched_on(home: object, stream: Stream) -> bool:
    flag = "has_pull_requests" if stream in (PULLS, REVIEW_COMMENTS) else "has_issues"
    return not isinstance(home, dict) or home.get(flag) is not False


def _cut(outcomes: Sequence[Outcome], skipped: Counter[str], before: Cursor, after: Cursor) -> Iterator[Page]:
    """Pages of bounded size; only the last one's cursor is past them."""
    for start in range(0, max(1, len(outcomes)), PAGE_RECORDS):
        piece = outcomes[start : start + PAGE_RECORDS]
        is_last = start + PAGE_RECORDS >= len(outcomes)
        yield Page(
            tuple(outcome for outcome in piece if isinstance(outcome, SourceRecord)),
            dead_letters=tuple(outcome for outcome in piece if isinstance(outcome, DeadLetter)),
            skipped=dict(skipped) if is_last else {},
            cursor=after if is_last else before,
        )
