"""Pure: what git is told before it talks to another machine, and what its last words there mean."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from extractors.git_repository import full_glob
from schemas.clone_urls import host_of, protocol_of
from schemas.errors import (
    AccessRefused,
    NoRoom,
    PipelineError,
    RateLimited,
    SourceUnavailable,
    SourceUnreachable,
    WrongAddress,
)

MIRRORED_HEAD = "refs/headrace/HEAD"
"""Where a mirror keeps what HEAD is at its origin; its own HEAD points there."""

_SSH = "ssh -o BatchMode=yes -o ConnectTimeout=30 -o ServerAliveInterval=15 -o ServerAliveCountMax=4"
_CERTIFICATES = ("GIT_SSL_CAINFO", "GIT_SSL_CAPATH")


def refspecs(globs: Sequence[str]) -> tuple[str, ...]:
    """What to fetch so that nothing that a glob matches is missing.

    git knows a single star in place of fnmatch's signs, so a glob is fetched up to its first sign. A name without
    one gets a star, too: a star that matches nothing is no error, a name that is gone would be.
    """
    prefixes = sorted({re.split(r"[*?\[]", full_glob(glob), maxsplit=1)[0] for glob in globs or ("HEAD",)})
    kept = [
        prefix
        for prefix in prefixes
        if not any(prefix != other and prefix.startswith(other) for other in prefixes)
    ]
    return tuple(f"+{prefix}*:{MIRRORED_HEAD if prefix == 'HEAD' else prefix}*" for prefix in kept)


def variables(
    url: str, user: str, token: str | None, silence_s: float, environ: Mapping[str, str]
) -> dict[str, str]:
    """Environment of a git that may talk to the host of `url`, in its protocol, and to nobody else.

    The token goes into a header for this host alone, through the environment, which no process list shows. With
    one, redirects are not followed: git would send it along. A redirect from https to http is never followed, as
    http is not allowed there. Nobody is asked for a password, and no helper is.

    Args:
        environ: whose certificates are taken.
    """
    protocol = protocol_of(url)
    settings = {
        "credential.helper": "",
        "http.followRedirects": "initial" if token is None else "false",
        "http.lowSpeedLimit": "1",
        "http.lowSpeedTime": f"{max(1, round(silence_s))}",
        "protocol.ext.allow": "never",
    }
    if token is not None:
        parts = urlsplit(url)
        secret = base64.b64encode(f"{user}:{token}".encode()).decode()
        settings[f"http.{parts.scheme}://{parts.netloc}/.extraHeader"] = f"Authorization: Basic {secret}"
    told = {
        "GIT_ALLOW_PROTOCOL": "http:https" if protocol == "http" else protocol,
        "GIT_ASKPASS": "",
        "GIT_CONFIG_COUNT": str(len(settings)),
        "GIT_NO_LAZY_FETCH": "0",
        "GIT_SSH_COMMAND": _SSH,
        "GIT_SSH_VARIANT": "ssh",
        "SSH_ASKPASS_REQUIRE": "never",
    }
    for at, (key, value) in enumerate(settings.items()):
        told |= {f"GIT_CONFIG_KEY_{at}": key, f"GIT_CONFIG_VALUE_{at}": value}
    return told | {name: environ[name] for name in _CERTIFICATES if name in environ}


_MEANINGS: tuple[tuple[str, str], ...] = (
    ("full", r"No space left|Disk quota exceeded|Read-only file system"),
    ("host key", r"Host key verification failed|REMOTE HOST IDENTIFICATION HAS CHANGED"),
    ("limited", r"returned error: 429"),
    (
        "moved",
        r"returned error: 30\d|update url base|redirect|[Pp]rotocol .*(?:disabled|not supported)|transport '' not",
    ),
    (
        "refused",
        r"Authentication failed|could not read (?:Username|Password)|returned error: 40[13]|Permission denied"
        r"|prompts disabled|dubious ownership",
    ),
    ("certificate", r"certificate|CAfile|unable to get local issuer"),
    (
        "unreachable",
        r"Could not resolve|unable to look up|Name or service not known|Connection refused|Couldn't connect"
        r"|Failed to connect|No route to host|Network is unreachable|Could not connect|CONNECT tunnel|[Pp]roxy",
    ),
    (
        "missing",
        r"returned error: 404|[Rr]epository .*not found|not appear to be a git repo|does not exist|not exported"
        r"|no such repository|Repository not found|not valid: is this a git repository",
    ),
    (
        "unavailable",
        r"hung up|early EOF|RPC failed|eset by peer|returned error: 5\d\d|unexpected disconnect|timed out"
        r"|TLS|SSL|too slow|transfer closed|HTTP/2|not our ref|Connection closed|Broken pipe",
    ),
)


def failure(
    words: str, source: str, url: str, folder: str, secrets: Sequence[str], known: bool
) -> PipelineError | None:
    """What git's last words mean, and which setting to change; None for what lies in the mirror itself.

    What the far end says (`remote: ...`) is neither believed nor shown.

    Args:
        folder: where the mirror is kept.
        secrets: not to be shown.
        known: the address has worked before, so that a connection that fails now may succeed later.
    """
    spoken = re.sub("'[^']*'", "''", "\n".join(_own_lines(words)))  # names may say anything
    meaning = next((name for name, pattern in _MEANINGS if re.search(pattern, spoken)), "")
    said = reason(words, secrets)
    at, host = f"source {source}: {url}", host_of(url) or "the host"
    match meaning:
        case "full":
            return NoRoom(
                f"source {source}: {folder} cannot be written ({said}): make room, or change data_dir"
            )
        case "host key":
            return SourceUnreachable(
                f"{at}: ssh does not know the key of the host, or another ({said}): connect once by hand, or add it "
                "to ~/.ssh/known_hosts"
            )
        case "limited":
            return RateLimited(f"{at}: {host} asks for fewer requests ({said})")
        case "moved":
            return WrongAddress(
                f"{at}: the repository is elsewhere, or the way there is not safe ({said}): change url to the "
                "address that it has now"
            )
        case "refused":
            web = protocol_of(url) in ("https", "http")
            what = "token" if web else "the key or the rights that ssh or the disk asks for"
            return AccessRefused(f"{at}: access refused ({said}): change {what}, or url")
        case "certificate":
            return SourceUnreachable(
                f"{at}: the certificate of {host} is not trusted ({said}): name the file of its authority in "
                "GIT_SSL_CAINFO"
            )
        case "unreachable" if not known:
            return SourceUnreachable(
                f"{at}: no connection ({said}): change url, or see to the network or proxy"
            )
        case "missing":
            return WrongAddress(
                f"{at}: no repository there that one may see ({said}): change url, or token if it is private"
            )
        case "unreachable" | "unavailable":
            return SourceUnavailable(
                f"{at}: could not be fetched now ({said}): it is tried again at the next run"
            )
    return None


def reason(words: str, secrets: Sequence[str]) -> str:
    """The first line in which git says why, on one line, without a secret."""
    lines = _own_lines(words)
    telling = [line for line in lines if re.match(r"fatal:|ssh:|ERROR:|error:", line)]
    found = [line for line in telling if "Could not read from remote" not in line]
    text = next(iter((*found, *lines)), "no reason given")
    text = re.sub(r"[^\x20-\x7e\xa0-\U0010ffff]", " ", text)
    for secret in secrets:
        text = text.replace(secret, "***")
    return re.sub(r"(?<=//)[^/\s@]{1,500}@", "", text)[:300]


def _own_lines(words: str) -> list[str]:
    """Without what the far end says, progress, and advice."""
    return [line for line in words.splitlines() if line and not re.match(r"remote:|warning:|hint:", line)]
