"""The `[[sources]]` tables of the configuration file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, Field, model_validator

from schemas.clone_urls import LOOPBACK, CloneUrl, RefGlob, host_of, protocol_of
from schemas.sections import ClientName, SecretReference, Section

_REPOSITORY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*/(?!\.{1,2}$)[A-Za-z0-9_.-]+")


def _is_web_address(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
        raise ValueError("expected an address such as https://example.com, without a user or a query")
    return value.rstrip("/")


def _is_repository(value: str) -> str:
    if not _REPOSITORY.fullmatch(value):
        raise ValueError("expected owner/name of a repository, such as acme/backend, without its address")
    return value


WebAddress = Annotated[str, AfterValidator(_is_web_address)]
RepositoryName = Annotated[str, AfterValidator(_is_repository)]


class SourceSettings(Section):
    """What every source has.

    Args:
        name: part of every identity: keep it when a path or URL changes.
        client: whose documents these are; None takes the file's.
        bots: globs of account names whose comments are dropped and counted.
        comments: False leaves comments and reviews out (and counts them as `excluded`).
        poll_interval_s: how often `headrace watch` looks for changes.
    """

    name: str = Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")
    client: ClientName | None = None
    bots: tuple[str, ...] = ("*[[]bot]", "*-bot", "*bot-gh", "dependabot*", "codecov*")
    comments: bool = True
    poll_interval_s: float = Field(default=60, gt=0)


class GitSource(SourceSettings):
    """A git repository: a folder, or one that is mirrored into the data folder.

    Args:
        path: work tree or bare repository.
        url: to clone from instead: https, http, ssh, git, file, `user@host:path` or an absolute path; kept as a
            mirror under `data_dir`. When it changes, the mirror is made anew.
        user: sent with `token`; GitHub, GitLab, Gitea and Azure take any, Bitbucket wants `x-token-auth`.
        token: for https alone. ssh uses the keys and the configuration of whoever runs headrace.
        refs: globs whose commits are read. `main` and `release/*` are branches, `refs/tags/v*` is a full name,
            `HEAD` is what the repository has checked out; a `*` crosses slashes. Empty means HEAD alone.
        web_url: prefix for links, such as `https://github.com/owner/repo`; None takes it from `origin`.
        files: False leaves the changed files out of a commit's text, and their contents out of a mirror.
        cherry_picks: False gives of all commits that make the same change (same patch id) the oldest alone: a
            change that was reverted and made again is one, too. A mirror then needs contents. git 2.39 or newer.
    """

    type: Literal["git"]
    path: Path | None = None
    url: CloneUrl | None = None
    user: str = Field(default="x-access-token", pattern=r"^[^\x00-\x20:\x7f]+$")
    token: SecretReference | None = None
    refs: tuple[RefGlob, ...] = ()
    web_url: str | None = None
    files: bool = True
    cherry_picks: bool = True

    @model_validator(mode="after")
    def _is_in_one_place(self) -> GitSource:
        if (self.path is None) == (self.url is None):
            raise ValueError("a git source needs either path, a folder, or url, to clone from")
        if self.token is not None and not (self.url and _may_carry_a_token(self.url)):
            raise ValueError(
                "token needs a url that begins with https://, so that nobody reads it on the way"
            )
        return self


def _may_carry_a_token(url: str) -> bool:
    protocol = protocol_of(url)
    return protocol == "https" or (protocol == "http" and host_of(url) in LOOPBACK)


class ExportSource(SourceSettings):
    """Files of saved payloads: `.jsonl`, `.jsonl.gz`, or `.json` with one array.

    Args:
        paths: files or globs, read in the order given; relative to the configuration file.
        site_url: base of links to issues (`https://jira.example.com`), for Jira payloads without one.
        custom_fields: Jira field id -> label, for text custom fields to be read.
        repository: `owner/repo` for payloads that do not say.
    """

    type: Literal["export"]
    paths: tuple[str, ...] = Field(min_length=1)
    site_url: str | None = None
    custom_fields: dict[str, str] = Field(default_factory=dict)
    repository: str | None = None


class LiveSource(SourceSettings):
    """A source behind an HTTP API.

    Args:
        sweep_interval_h: how often everything is listed again, for what changed without saying so.
        overlap_s: how far before the newest change a poll starts: searches lag behind, clocks differ.
        webhook_secret: what deliveries of this source are signed with; None refuses them.
    """

    sweep_interval_h: float = Field(default=24, gt=0)
    overlap_s: float = Field(default=300, ge=0)
    webhook_secret: SecretReference | None = None


class JiraSource(LiveSource):
    """Issues of a Jira site, Cloud or Data Center, with their comments.

    Args:
        site_url: where people open it; base of links.
        api_url: where its API is, if elsewhere: `https://api.atlassian.com/ex/jira/<cloud id>` for OAuth.
        deployment: None asks the site.
        user: e-mail address of the token's account, for Cloud (Basic); None sends the token alone (Bearer).
        token: API token, personal access token or OAuth access token; None reads what anyone may.
        projects: keys; empty reads every project that the account sees.
        jql: a filter besides, without ORDER BY.
        custom_fields: field id -> label, for text custom fields to be read.
        restricted_comments: True keeps comments that not everyone who sees the issue may see.
    """

    type: Literal["jira"]
    site_url: WebAddress
    api_url: WebAddress | None = None
    deployment: Literal["cloud", "data_center"] | None = None
    user: str | None = None
    token: SecretReference | None = None
    projects: tuple[Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")], ...] = ()
    jql: str | None = None
    custom_fields: dict[str, str] = Field(default_factory=dict)
    restricted_comments: bool = False

    @model_validator(mode="after")
    def _user_has_a_token(self) -> JiraSource:
        if self.user is not None and self.token is None:
            raise ValueError("user needs token")
        return self


class GitHubSource(LiveSource):
    """Issues and pull requests of repositories on GitHub, with comments and reviews.

    Args:
        repositories: each `owner/repo`.
        api_url: of GitHub Enterprise: `https://github.example.com/api/v3`.
        token: None asks as anyone may: 60 requests an hour.
        app_id: of a GitHub App, with `installation_id` and `private_key`, instead of a token.
        private_key: the App's, PEM.
        reserve: requests of the hourly limit that are left to other tools.
    """

    type: Literal["github"]
    repositories: tuple[RepositoryName, ...] = Field(min_length=1)
    api_url: WebAddress = "https://api.github.com"
    token: SecretReference | None = None
    app_id: int | None = None
    installation_id: int | None = None
    private_key: SecretReference | None = None
    reserve: int = Field(default=200, ge=0)

    @model_validator(mode="after")
    def _has_one_identity(self) -> GitHubSource:
        app = (self.app_id, self.installation_id, self.private_key)
        if any(part is not None for part in app) and (None in app or self.token is not None):
            raise ValueError("an App needs app_id, installation_id and private_key, and no token")
        return self


Source = Annotated[GitSource | ExportSource | JiraSource | GitHubSource, Field(discriminator="type")]
SOURCE_TYPES: dict[str, type[BaseModel]] = {
    "git": GitSource,
    "export": ExportSource,
    "jira": JiraSource,
    "github": GitHubSource,
}
