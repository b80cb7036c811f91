"""Which sources take deliveries, and which of them a delivery concerns."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from extractors.deliveries import Hint, Provider
from extractors.git_origin import parse_origin
from schemas.config import Config
from schemas.errors import BadConfig
from schemas.sections import resolve_secret
from schemas.sources import GitHubSource, GitSource, JiraSource, Source
from transforms.deliveries import NewDelivery


@dataclass(frozen=True, slots=True)
class Registered:
    """A source that takes deliveries."""

    source: GitHubSource | JiraSource
    client: str
    secret: bytes = field(repr=False)


Registry = Mapping[tuple[Provider, str], Registered]


def registry(config: Config) -> Registry:
    """The sources that take deliveries, by provider and name.

    Raises:
        BadConfig: there is none, or a secret is not where the configuration says.
    """
    registered: dict[tuple[Provider, str], Registered] = {}
    for source in config.sources:
        if isinstance(source, GitHubSource | JiraSource) and source.webhook_secret is not None:
            setting = f"webhook_secret of source {source.name!r}"
            secret = resolve_secret(source.webhook_secret, setting)
            if not secret:
                raise BadConfig(f"{setting}: the secret is empty: anyone could sign with it")
            registered[source.type, source.name] = Registered(
                source, source.client or config.client, secret.encode()
            )
    if not registered:
        raise BadConfig("no source takes deliveries: set webhook_secret in a source of type github or jira")
    return registered


def is_signed(body: bytes, secret: bytes, signature: str) -> bool:
    """Whether `signature` is `sha256=` and the HMAC-SHA256 of `body` in hexadecimal digits; takes as long if not."""
    expected = "sha256=" + hmac.new(secret, body, "sha256").hexdigest()
    return hmac.compare_digest(expected.encode(), signature.encode("latin-1", "replace"))


def addressed(
    hint: Hint, to: Registered, provider_id: str, sources: Sequence[Source], default_client: str
) -> list[NewDelivery]:
    """What is to be kept of a delivery, one for each source it concerns; nothing when it concerns none of ours.

    References to repositories that the source does not read are left out. A push concerns the git sources of the
    same client that clone from, or link to, the repository.
    """

    wanted, poll_itself = hint.references, False
    if isinstance(to.source, GitHubSource):
        read = {repository.lower() for repository in to.source.repositories}
        wanted = tuple(one for one in wanted if one.key.partition("#")[0].lower() in read)
        poll_itself = any(repository.lower() in read for repository in hint.repositories)
    names = [to.source.name] if wanted or poll_itself else []
    places = {_place(address) for address in hint.pushed_to} - {""}
    names += [
        source.name
        for source in sources
        if isinstance(source, GitSource)
        and (source.client or default_client) == to.client
        and not places.isdisjoint((_place(source.url or ""), _place(source.web_url or "")))
    ]
    return [NewDelivery(to.client, name, provider_id, hint.event, wanted) for name in names]


def _place(address: str) -> str:
    """Host and path of a repository, the same for each way to clone it; "" for what is no address."""
    origin = parse_origin(address)
    return origin.web_url.partition("://")[2].lower() if origin else ""


def introduction(config: Config, registered: Registry, address: str) -> list[str]:
    """What to tell whoever starts the receiver: addresses to enter at the providers, and sources left out."""
    lines = [f"listening on {address}; `headrace watch` looks at what comes in"]
    lines += [f"  {address}/{provider}/{name}" for provider, name in registered]
    lines += [
        f"  source {source.name!r} takes no deliveries: its webhook_secret is not set"
        for source in config.sources
        if isinstance(source, GitHubSource | JiraSource) and source.webhook_secret is None
    ]
    return lines
