"""The fields of Jira and GitHub payloads that are read, and no others; lenient about everything else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from schemas.errors import InvalidPayload

EPOCH_MS_ABOVE = 10**11  # larger numbers are milliseconds: as seconds they would lie beyond the year 5000
MAX_KEY_CHARS = 255


def parse_json(raw: bytes) -> Any:
    """The JSON value in `raw`; a lone surrogate in it becomes U+FFFD.

    Raises:
        ValueError: it is no JSON, no UTF-8, or nested too deeply.
    """
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        pass  # strict about lone surrogates and a byte order mark, which real exports have
    try:
        value = json.loads(raw, parse_constant=_refuse_constant)
        text = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return orjson.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def parse_time(value: Any) -> datetime | None:
    """A moment in UTC from ISO 8601 (`Z`, `+0000`, `+00:00`, or none for UTC) or epoch seconds or milliseconds.

    None when `value` is no moment.
    """
    try:
        if isinstance(value, str):
            moment = datetime.fromisoformat(value.removesuffix(" UTC"))
            return moment.astimezone(UTC) if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return datetime.fromtimestamp(value / 1000 if value > EPOCH_MS_ABOVE else value, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return None


def _text(value: Any) -> str:
    """Postgres stores no NUL."""
    if isinstance(value, str):
        return value.replace("\0", "")
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else ""


def _name(value: Any) -> str:
    """What people call a thing that a payload gives as an object (`{"name": ...}`) or as its name alone."""
    if isinstance(value, Mapping):
        for key in ("name", "displayName", "login", "title", "value", "key"):
            if value.get(key):
                return _text(value[key])
        return ""
    return _text(value)


def _key(value: Any) -> str:
    """What is indexed as a key must be short; nothing longer is one."""
    key = _text(value)
    return key if len(key) <= MAX_KEY_CHARS else ""


def _names(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(name for name in map(_name, values) if name)


def _object(value: Any) -> Any:
    return value if isinstance(value, Mapping) else None


def _objects(value: Any) -> list[Any]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


Text = Annotated[str, BeforeValidator(_text)]
Key = Annotated[str, BeforeValidator(_key)]
Name = Annotated[str, BeforeValidator(_name)]
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
Moment = Annotated[datetime | None, BeforeValidator(parse_time)]
Count = Annotated[int, BeforeValidator(_count)]


class Payload(BaseModel):
    """An object of an API: unknown keys are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, alias_generator=to_camel)


class JiraUser(Payload):
    """`account_type` is `atlassian`, `customer` or `app` on Cloud, absent on a server."""

    display_name: Text = ""
    name: Text = ""
    key: Text = ""
    account_id: Text = ""
    account_type: Text = ""

    @property
    def shown(self) -> str:
        return self.display_name or self.name or self.key or self.account_id

    @property
    def names(self) -> set[str]:
        return {self.name, self.shown} - {""}


OptionalJiraUser = Annotated[JiraUser | None, BeforeValidator(_object)]


class JiraComment(Payload):
    """`body` is wiki markup (REST v2) or an ADF document (v3); `visibility` is set on restricted ones."""

    author: OptionalJiraUser = None
    body: Any = None
    created: Moment = None
    visibility: Any = None
    jsd_public: Any = None


class JiraComments(Payload):
    """The inline comments, perhaps fewer than `total`."""

    comments: Annotated[tuple[JiraComment, ...], BeforeValidator(_objects)] = ()
    total: Count = 0


class JiraReference(Payload):
    """Another issue, as far as a link shows it."""

    key: Key = ""


OptionalJiraReference = Annotated[JiraReference | None, BeforeValidator(_object)]


class JiraLinkType(Payload):
    name: Text = ""
    inward: Text = ""
    outward: Text = ""


class JiraLink(Payload):
    type: Annotated[JiraLinkType | None, BeforeValidator(_object)] = None
    inward_issue: OptionalJiraReference = None
    outward_issue: OptionalJiraReference = None


class JiraFields(Payload):
    """`description` and `environment` are wiki markup (REST v2) or ADF documents (v3)."""

    summary: Text = ""
    description: Any = None
    environment: Any = None
    issuetype: Name = ""
    status: Name = ""
    priority: Name = ""
    resolution: Name = ""
    labels: Names = ()
    components: Names = ()
    fix_versions: Names = ()
    versions: Names = ()
    project: OptionalJiraReference = None
    assignee: OptionalJiraUser = None
    reporter: OptionalJiraUser = None
    creator: OptionalJiraUser = None
    created: Moment = None
    updated: Moment = None
    resolutiondate: Moment = None
    parent: OptionalJiraReference = None
    epic: OptionalJiraReference = None
    subtasks: Annotated[tuple[JiraReference, ...], BeforeValidator(_objects)] = ()
    issuelinks: Annotated[tuple[JiraLink, ...], BeforeValidator(_objects)] = ()
    comment: Annotated[JiraComments | None, BeforeValidator(_object)] = None


class JiraIssue(Payload):
    """An issue of REST v2, v3 or the Agile API."""

    key: Key = ""
    self: Text = ""
    fields: JiraFields


class JiraFlatIssue(BaseModel):
    """An issue of a flat table."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    issuekey: Key
    title: Text = ""
    description: Text = ""
    storypoint: Any = None


class GitHubPayload(BaseModel):
    """An object of the REST API, whose names are ours already."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class GitHubUser(GitHubPayload):
    """`type` is `User`, `Bot` or `Organization`."""

    login: Text = ""
    type: Text = ""


OptionalGitHubUser = Annotated[GitHubUser | None, BeforeValidator(_object)]


class GitHubRef(GitHubPayload):
    """A side of a pull request."""

    ref: Text = ""


OptionalGitHubRef = Annotated[GitHubRef | None, BeforeValidator(_object)]


class GitHubIssue(GitHubPayload):
    """A REST issue or pull request. `comments` and `review_comments` are counts."""

    number: Count = 0
    title: Text = ""
    body: Text = ""
    state: Text = ""
    state_reason: Text = ""
    draft: Any = None
    labels: Names = ()
    milestone: Name = ""
    user: OptionalGitHubUser = None
    assignees: Names = ()
    created_at: Moment = None
    closed_at: Moment = None
    merged_at: Moment = None
    comments: Count = 0
    review_comments: Count = 0
    html_url: Text = ""
    base: OptionalGitHubRef = None
    head: OptionalGitHubRef = None


class GitHubComment(GitHubPayload):
    """A REST issue comment, commit comment, review or review comment; each has some of the fields."""

    id: Text = ""
    body: Text = ""
    state: Text = ""
    user: OptionalGitHubUser = None
    html_url: Text = ""
    path: Text = ""
    line: Any = None
    original_line: Any = None
    diff_hunk: Text = ""
    commit_id: Key = ""
    in_reply_to_id: Text = ""
    created_at: Moment = None
    submitted_at: Moment = None


class ArchiveComment(Payload):
    """A comment or review comment of the archive format (GraphQL names); `author` is a login."""

    author: Name = ""
    body: Text = ""
    path: Text = ""
    created_at: Moment = None


ArchiveComments = Annotated[tuple[ArchiveComment, ...], BeforeValidator(_objects)]


class ArchiveReview(Payload):
    """A review with its comments, which have no author of their own."""

    author: Name = ""
    body: Text = ""
    state: Text = ""
    created_at: Moment = None
    comments: ArchiveComments = ()


class ArchiveItem(Payload):
    """An issue or pull request with everything inside."""

    kind: Text = ""
    repo: Key = ""
    number: Count = 0
    title: Text = ""
    body: Text = ""
    state: Text = ""
    author: Name = ""
    labels: Names = ()
    assignees: Names = ()
    url: Text = ""
    created_at: Moment = None
    closed_at: Moment = None
    merged_at: Moment = None
    base_ref_name: Text = ""
    head_ref_name: Text = ""
    comments: ArchiveComments = ()
    reviews: Annotated[tuple[ArchiveReview, ...], BeforeValidator(_objects)] = ()


class LabelledIssue(GitHubPayload):
    """An issue of a labelled data set: no number, no id."""

    repo: Key = ""
    created_at: Moment = None
    label: Text = ""
    title: Text = ""
    body: Text = ""


P = TypeVar("P", bound=BaseModel)


def validate(model: type[P], value: Any) -> P:
    """`value` as `model`.

    Raises:
        InvalidPayload: naming the first field that is wrong, without its content.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        path = ".".join(str(part) for part in first["loc"]) or "(record)"
        raise InvalidPayload(path, first["msg"][:200]) from None
