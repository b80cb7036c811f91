"""How Jira's API is asked: credentials, limits, and what it means when it refuses. Pure but for opening a session.

https://developer.atlassian.com/cloud/jira/platform/rate-limiting/
https://confluence.atlassian.com/adminjiraserver/adjusting-your-code-for-rate-limiting-987143384.html
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import httpx

from extractors.base import OnWait
from extractors.http import Answer, ApiSession, BearerToken, Policy
from schemas.errors import AccessRefused
from schemas.http_wire import retry_after_s
from schemas.payloads import parse_time
from schemas.sections import resolve_secret
from schemas.sources import JiraSource

FIRST_WAIT_S = 5  # for a limit that does not say for how long, doubled for each more in a row
LONGEST_WAIT_S = 300


def open_session(
    settings: JiraSource, on_wait: OnWait, now: Callable[[], datetime], sleep: Callable[[float], None]
) -> ApiSession:
    """A session as the account of a source, or as anyone.

    Raises:
        BadConfig: the token is not where the configuration says.
        SourceUnreachable: the proxy or certificates named in the environment cannot be used.
    """
    auth: httpx.Auth | None = None
    if settings.token is not None:
        token = resolve_secret(settings.token, f"sources.{settings.name}.token")
        auth = BearerToken(token) if settings.user is None else httpx.BasicAuth(settings.user, token)
    return ApiSession(
        settings.api_url or settings.site_url,
        auth,
        policy(settings),
        on_wait=on_wait,
        now=now,
        sleep=sleep,
    )


def policy(settings: JiraSource) -> Policy:
    """What is Jira's own in asking for `settings`."""
    url_setting = "site_url" if settings.api_url is None else "api_url"
    return Policy("Jira", settings.name, url_setting, "token", wait_s, refused, pause_s)


def wait_s(answer: httpx.Response, attempt: int, now: datetime) -> float | None:
    """Seconds to wait when `answer` is a limit, None when it is anything else: a 503 that names no time is none.

    Args:
        attempt: limits met in a row, this one included.
    """
    if answer.status_code not in (429, 503):
        return None
    asked = retry_after_s(answer, now)
    if asked is not None:
        return asked
    if answer.status_code == 503:
        return None
    reset = _reset_in_s(answer, now)
    return (
        reset if reset is not None else float(min(FIRST_WAIT_S * 2 ** min(attempt - 1, 10), LONGEST_WAIT_S))
    )


def pause_s(answer: httpx.Response, now: datetime) -> float | None:
    """Seconds until there are requests again, after a good answer that used up the last."""
    if answer.headers.get("x-ratelimit-remaining", "").strip() != "0":
        return None
    asked = retry_after_s(answer, now)
    return asked if asked else _reset_in_s(answer, now)


def _reset_in_s(answer: httpx.Response, now: datetime) -> float | None:
    """Cloud names a moment, ISO 8601; Data Center how often its bucket is filled."""
    reset = parse_time(answer.headers.get("x-ratelimit-reset"))
    if reset is not None:
        return max(0.0, (reset - now).total_seconds())
    interval = answer.headers.get("x-ratelimit-interval-seconds", "").strip()
    return float(interval) if interval.isdecimal() and len(interval) < 10 else None


def refused(answer: httpx.Response) -> str:
    """One line on a 401 or 403, which repeats nothing that was sent."""
    return _why_refused(answer.status_code, answer.headers)


def check_known(answer: Answer, source: str) -> None:
    """Jira answers 200, with less in it, to credentials that it did not accept.

    Raises:
        AccessRefused: it took this request for a stranger's.
    """
    login = answer.headers.get("x-seraph-loginreason", "")
    if answer.headers.get("x-ausername", "").lower() == "anonymous" or login in _FAILED:
        why = _why_refused(answer.status, answer.headers)
        host = httpx.URL(answer.url).host
        raise AccessRefused(f'source "{source}": Jira at {host} answers as to a stranger: {why}; check token')


_FAILED = ("AUTHENTICATED_FAILED", "AUTHENTICATION_DENIED")


def _why_refused(status: int, headers: httpx.Headers) -> str:
    asks_for_captcha = "captcha" in headers.get("x-authentication-denied-reason", "").lower()
    if asks_for_captcha or headers.get("x-seraph-loginreason", "") == "AUTHENTICATION_DENIED":
        return "after failed logins it asks for a CAPTCHA: log in once in a browser as this account"
    if status == 403:
        return (
            "the account may not read this: it needs Browse projects, a scoped token read:jira-work and -user"
        )
    return "user and token do not belong together, or the token has expired or was revoked"
