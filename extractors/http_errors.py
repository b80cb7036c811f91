"""What an API's failure means, in one line that says what to change. Pure.

A line names hosts, paths, statuses and settings; never a query, a header, a body or a text of the far end.
"""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING

import httpx

from schemas.errors import (
    AccessRefused,
    NotAllowed,
    PipelineError,
    QueryRefused,
    SourceTimeout,
    SourceUnavailable,
    SourceUnreachable,
    WrongAddress,
)
from schemas.http_wire import Overdue

if TYPE_CHECKING:
    from extractors.http import Policy

MAX_SHOWN = 200  # characters of a path or of a policy's own line


def place(policy: Policy, url: httpx.URL) -> str:
    """The subject of every line: whose API, where, for which source."""
    return f'source "{policy.source}": {policy.name} at {_shown(url.netloc.decode("ascii"))}'


def of_transport(
    policy: Policy, url: httpx.URL, error: Exception, *, first: bool, proxied: bool
) -> PipelineError:
    """A request that got no whole answer.

    Args:
        proxied: the environment names a proxy, which may be what cannot be reached.
        first: nothing has answered in this session yet, so that a setting is the likely cause.
    """
    where = place(policy, url)
    match error:
        case Overdue() | httpx.TimeoutException():
            return SourceTimeout(
                f"{where} did not answer in time; check {policy.url_setting} if it never does"
            )
        case httpx.InvalidURL() | httpx.UnsupportedProtocol():
            return WrongAddress(f"{where}: not an address that can be asked: check {policy.url_setting}")
        case httpx.ProxyError():
            line = f"{where}: the proxy refused the connection: check HTTPS_PROXY, HTTP_PROXY and NO_PROXY"
        case httpx.ConnectError():
            proxy = ", and the proxy that the environment names" if proxied else ""
            line = f"{where}: {_why_unconnected(policy, error)}{proxy}"
        case _:
            return SourceUnavailable(
                f"{where} broke the connection; check {policy.url_setting} if it always does"
            )
    return SourceUnreachable(line) if first else SourceUnavailable(line)


def _why_unconnected(policy: Policy, error: Exception) -> str:
    cause: BaseException | None = error
    while cause is not None:
        match cause:
            case ssl.SSLCertVerificationError():
                return (
                    f"its certificate is not trusted ({_shown(cause.verify_message)}): check "
                    f"{policy.url_setting}, or name the file of your own CA in SSL_CERT_FILE"
                )
            case ssl.SSLError():
                return (
                    f"no TLS connection ({_shown(cause.reason or 'ended early')}): check {policy.url_setting}"
                )
            case socket.gaierror():
                return f"no such host, or no name server: check {policy.url_setting}"
            case ConnectionRefusedError():
                return f"nothing listens there, the connection was refused: check {policy.url_setting}"
        cause = cause.__cause__ or cause.__context__
    return f"no connection can be made: check {policy.url_setting} and the network"


def of_status(policy: Policy, response: httpx.Response) -> PipelineError:
    """An answer whose status is none that was hoped for, and no limit."""
    status, request = response.status_code, response.request
    where = place(policy, request.url)
    asked = f"{request.method} {_shown(request.url.path)}"
    if status in (401, 403):
        line = _shown(policy.refused(response))
        kind = AccessRefused if status == 401 else NotAllowed
        return kind(f"{where} refused access (HTTP {status}): {line}; check {policy.token_setting}")
    if status in (404, 405, 410):
        return WrongAddress(
            f"{where} has nothing for {asked} (HTTP {status}): check {policy.url_setting}, "
            f"and whether {policy.token_setting} may see it"
        )
    if status in (408, 425, 429) or status >= 500:
        return SourceUnavailable(f"{where} could not answer {asked} (HTTP {status})")
    return QueryRefused(f"{where} refused {asked} (HTTP {status}): check what the source asks for")


def of_foreign_answer(
    policy: Policy, response: httpx.Response, *, web_page: bool, redirected: bool, first: bool
) -> PipelineError:
    """An answer that was hoped for, but not in JSON: something else speaks there, a proxy or a login form.

    Args:
        first: no JSON has come from there in this session yet, so that a setting is the likely cause.
    """
    what = "a web page" if web_page else "something else"
    way = f"after a redirect to {_shown(response.url.path)} " if redirected else ""
    line = (
        f"{place(policy, response.url)} {way}sent {what} instead of JSON (HTTP {response.status_code}): "
        f"check {policy.url_setting}, and {policy.token_setting} if that is a login page"
    )
    return WrongAddress(line) if first else SourceUnavailable(line)


def same_origin(policy: Policy, base: httpx.URL, target: str, verb: str) -> httpx.URL:
    """`target` as seen from `base`. Credentials never go elsewhere.

    Args:
        verb: what led there, "redirects" or "links".
    Raises:
        WrongAddress: it is on another host, port or scheme, holds a user, or is no address.
    """
    try:
        url = base.join(target)
    except httpx.InvalidURL:
        url = httpx.URL()
    if _origin(url) == _origin(base) and not url.userinfo:
        return url.copy_with(fragment=None)
    there = f"{_shown(url.scheme)}://{_shown(url.netloc.decode('ascii'))}"
    raise WrongAddress(
        f"{place(policy, base)} {verb} to {there}, where credentials are not sent: check {policy.url_setting}, "
        f"and {policy.token_setting} if that is a login page"
    )


def _origin(url: httpx.URL) -> tuple[str, bytes, int | None]:
    return url.scheme, url.raw_host, url.port


def lost_in_redirects(policy: Policy, url: httpx.URL) -> WrongAddress:
    return WrongAddress(f"{place(policy, url)} redirects without an end: check {policy.url_setting}")


def unsendable_token(policy: Policy, url: httpx.URL) -> AccessRefused:
    return AccessRefused(
        f"{place(policy, url)} was not asked: the credentials hold characters that cannot be sent, or none: "
        f"check {policy.token_setting}"
    )


def unusable_environment(policy: Policy) -> SourceUnreachable:
    return SourceUnreachable(
        f'source "{policy.source}": the proxy or certificates named in the environment cannot be used: check '
        "HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, SSL_CERT_FILE and SSL_CERT_DIR"
    )


def _shown(text: str) -> str:
    """One line of printable characters, not too long."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= MAX_SHOWN else f"{line[:MAX_SHOWN]}…"
