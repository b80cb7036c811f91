"""Pure: the addresses that a repository may be cloned from. None of them runs a command or holds a secret."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

LOOPBACK = ("localhost", "127.0.0.1", "::1")

_SCP = re.compile(r"(?:\w[\w.-]*@)?[A-Za-z0-9][A-Za-z0-9.-]*:(?![:-])(?!//)[^\s]+", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*|[0-9A-Fa-f:.]+", re.ASCII)
_USER = re.compile(r"\w[\w.-]*", re.ASCII)
_EXPECTED = (
    "expected https://, http://, ssh://, git://, file://, user@host:path, or a path that begins with /"
)


def protocol_of(url: str) -> str:
    """`https`, `http`, `ssh`, `git` or `file`, as git's GIT_ALLOW_PROTOCOL has it, of a checked address."""
    if url.startswith("/"):
        return "file"
    return url.partition("://")[0] if "://" in url else "ssh"


def host_of(url: str) -> str:
    """The host of a checked address with a scheme, lower case; empty for one without."""
    return urlsplit(url).hostname or "" if "://" in url else ""


def checked_clone_url(value: str) -> str:
    """`value`, if git may be given it.

    A leading dash would be an option and `ext::` a command; what stands before an `@` of a web address, or behind
    its `?`, may be a secret, and would be stored and shown.

    Raises:
        ValueError: it is none. The message does not repeat it.
    """
    if re.search(r"[\x00-\x20\x7f]", value) or value.startswith("-"):
        raise ValueError(_EXPECTED)
    if value.startswith("/"):
        return value
    if "://" not in value:
        if not _SCP.fullmatch(value):
            raise ValueError(_EXPECTED)
        return value
    try:
        parts = urlsplit(value)
        host, user, password, _ = parts.hostname or "", parts.username, parts.password, parts.port
    except ValueError:
        raise ValueError(_EXPECTED) from None
    if protocol_of(value) not in ("https", "http", "ssh", "git", "file"):
        raise ValueError(_EXPECTED)
    if password is not None or (user is not None and parts.scheme != "ssh") or parts.query or parts.fragment:
        raise ValueError(
            "no user, password, query or fragment may stand in it, as it is stored and shown: put a secret into token"
        )
    is_host = bool(_HOST.fullmatch(host)) if parts.scheme != "file" else host in ("", "localhost")
    if not is_host or not parts.path or (user is not None and not _USER.fullmatch(user)):
        raise ValueError(_EXPECTED)
    return value


CloneUrl = Annotated[str, AfterValidator(checked_clone_url)]


def checked_ref_glob(value: str) -> str:
    """`value`, if it can match the name of a ref.

    Raises:
        ValueError: no ref has such a name.
    """
    if re.search(r"[\x00-\x20\x7f~^:\\]|\.\.|@\{|//|/\.|^[/.]|[/.]$|^$", value):
        raise ValueError(
            'expected a glob of branches ("main", "release/*") or of full names ("refs/tags/v*")'
        )
    return value


RefGlob = Annotated[str, AfterValidator(checked_ref_glob)]
