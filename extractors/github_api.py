"""How GitHub's API is asked: headers, credentials, limits, next pages. Pure but for opening a session.

https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from extractors.base import OnWait
from extractors.http import ApiSession, BearerToken, Policy
from schemas.http_wire import retry_after_s
from schemas.payloads import parse_json
from schemas.sections import resolve_secret
from schemas.sources import GitHubSource

HEADERS = {"accept": "application/vnd.github+json", "x-github-api-version": "2022-11-28"}
SECONDARY_WAIT_S = 60  # for the first secondary limit in a row, doubled for each more
LONGEST_SECONDARY_WAIT_S = 15 * 60
MARGIN_S = 1  # the reset is given in whole seconds

_LIMIT = re.compile(r"rate limit|abuse detection", re.IGNORECASE)


@contextmanager
def open_session(
    settings: GitHubSource, on_wait: OnWait, now: Callable[[], datetime], sleep: Callable[[float], None]
) -> Iterator[ApiSession]:
    """A session as the token or the App of a source, for the length of the block.

    Raises:
        BadConfig: a secret is not where the configuration says, or is no private key.
        SourceUnreachable: the proxy or certificates named in the environment cannot be used.
    """

    def opened(auth: httpx.Auth | None, token_setting: str) -> ApiSession:
        rules = policy(settings, token_setting)
        return ApiSession(
            settings.api_url, auth, rules, headers=HEADERS, on_wait=on_wait, now=now, sleep=sleep
        )

    with ExitStack() as opens:
        auth: httpx.Auth | None = None
        setting = "token"
        if settings.token is not None:
            auth = BearerToken(resolve_secret(settings.token, f"source {settings.name}: token"))
        elif settings.app_id is not None:
            from extractors.github_app import InstallationToken, Statement  # 60 ms to load

            setting = "the permissions of the App's installation"
            statement = Statement(settings, now)
            asking = opens.enter_context(closing(opened(statement, "app_id and private_key")))
            auth = InstallationToken(asking, settings, now)
        yield opens.enter_context(closing(opened(auth, setting)))


def policy(settings: GitHubSource, token_setting: str) -> Policy:
    """What is GitHub's own in asking for `settings`."""
    return Policy(
        "GitHub",
        settings.name,
        "api_url",
        token_setting,
        wait_s,
        refused,
        lambda answer, now: pause_s(answer, now, settings.reserve),
    )


def wait_s(answer: httpx.Response, attempt: int, now: datetime) -> float | None:
    """Seconds to wait when `answer` is a limit, None when it is anything else, a lack of permission too.

    Retry-After counts first, then the reset of an hourly limit that is used up; what remains is a secondary
    limit, which cannot be asked about.

    Args:
        attempt: limits met in a row, this one included.
    """
    status, exhausted = answer.status_code, answer.headers.get("x-ratelimit-remaining", "").strip() == "0"
    if status == 200:
        if not _is_limited_query(answer):
            return None
        exhausted = True
    elif status not in (403, 429):
        return None
    asked = retry_after_s(answer, now)
    if asked is not None:
        return asked
    reset = _reset_in_s(answer, now)
    if exhausted and reset is not None:
        return reset
    if status == 403 and not exhausted and not _LIMIT.search(message_of(answer)):
        return None
    return float(min(SECONDARY_WAIT_S * 2 ** min(attempt - 1, 10), LONGEST_SECONDARY_WAIT_S))


def pause_s(answer: httpx.Response, now: datetime, reserve: int) -> float | None:
    """Seconds until an hourly limit is full again, once it is used up to its reserve.

    Of a limit smaller than four times the reserve (60 an hour without a token), a quarter is left.
    """
    remaining, limit = (_number(answer, f"x-ratelimit-{name}") for name in ("remaining", "limit"))
    if remaining is None or limit is None or remaining > min(reserve, limit // 4):
        return None
    return _reset_in_s(answer, now)


def refused(answer: httpx.Response) -> str:
    """One line on a 401 or 403, which repeats nothing that was sent."""
    if answer.status_code == 401:
        return "the credentials are wrong, expired or revoked"
    if "x-github-sso" in answer.headers:
        return "the organisation asks that the token be authorised for its single sign-on"
    said = message_of(answer)
    if "access blocked" in said:
        return "GitHub itself has blocked it"
    if "not accessible by" in said:
        return "read access to issues, pull requests and metadata of the repository is missing"
    return "the account may not read this"


def message_of(answer: httpx.Response) -> str:
    """What an error's body says, cut to 500 characters; "" where it says nothing."""
    try:
        body = parse_json(answer.content)
    except ValueError:
        return ""
    message = body.get("message") if isinstance(body, dict) else None
    return message[:500] if isinstance(message, str) else ""


def answered_at(headers: httpx.Headers, now: datetime) -> datetime:
    """The server's clock when it answered; ours where it does not say."""
    try:
        moment = parsedate_to_datetime(headers.get("date", ""))
    except (ValueError, TypeError, OverflowError):
        return now
    return moment.astimezone(UTC) if moment.tzinfo else now


def graphql_url(api_url: str) -> str:
    """Where GraphQL is: https://api.github.com/graphql, https://github.example.com/api/graphql."""
    return f"{api_url.removesuffix('/v3')}/graphql"


def _is_limited_query(answer: httpx.Response) -> bool:
    """GraphQL says with status 200 that its limit is used up."""
    if not answer.url.path.endswith("/graphql") or b"RATE_LIMIT" not in answer.content:
        return False
    try:
        body = parse_json(answer.content)
    except ValueError:
        return False
    errors = body.get("errors") if isinstance(body, dict) else None
    return isinstance(errors, list) and any(
        isinstance(error, dict) and str(error.get("type")).startswith("RATE_LIMIT") for error in errors
    )


def _number(answer: httpx.Response, header: str) -> int | None:
    value = answer.headers.get(header, "").strip()
    return int(value) if value.isdecimal() and len(value) < 16 else None


def _reset_in_s(answer: httpx.Response, now: datetime) -> float | None:
    """Seconds until the limit is full again, by the server's clock; None when that is past."""
    reset = _number(answer, "x-ratelimit-reset")
    if reset is None:
        return None
    left = reset - answered_at(answer.headers, now).timestamp()
    return math.ceil(left) + MARGIN_S if left > 0 else None
