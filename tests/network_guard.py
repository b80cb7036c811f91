"""No test reaches anything but this machine: a name looked up, or a connection made, elsewhere fails the test.

An audit hook sees what this process's Python does, whichever library asks; it cannot be taken away again. It does not
see what C does by itself (libpq, git, other programs): those inherit no key of a provider, and so cannot spend.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import MutableMapping
from typing import Any

RESERVED = (".invalid", ".test", ".example", ".localhost")
"""Names that cannot be anybody's (RFC 6761)."""

FREE = ("huggingface.co",)
"""Models are looked for there when they are nowhere else; nothing can be spent."""

KEYS = ("_API_KEY", "_API_TOKEN", "_AUTH_TOKEN")

attempts: list[str] = []
"""What was reached for since a fixture last looked."""


class Elsewhere(BaseException):
    """Not an `Exception`, so that no code under test takes it for a failure it knows how to handle."""


def install() -> None:
    """From now on this process stays here."""
    sys.addaudithook(_hook)
    without_keys(os.environ)


def without_keys(environment: MutableMapping[str, str]) -> None:
    """Take the keys of providers out."""
    for name in [name for name in environment if name.endswith(KEYS)]:
        del environment[name]


ADDRESSED = {"socket.connect": 1, "socket.sendto": 1, "socket.sendmsg": 1}
"""Events whose argument there is an address: (host, port, ...), a path, or None on a connected socket."""

LOOKED_UP = frozenset({"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"})
"""Events whose first argument is a name."""


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ADDRESSED:
        address = arguments[ADDRESSED[event]]
        host = address[0] if isinstance(address, tuple) else None
    elif event in LOOKED_UP:
        host = arguments[0]
    else:
        return
    if host is not None and not is_here(host):
        attempts.append(str(host))
        raise Elsewhere(f"a test reached for {host}")


def is_here(host: str | bytes) -> bool:
    """Whether a name or address is this machine, or nobody."""
    name = (host.decode("ascii", "replace") if isinstance(host, bytes) else host).lower().rstrip(".")
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        known = ("", "localhost", socket.gethostname().lower(), *FREE)
        return name in known or name.endswith(RESERVED)
    return address.is_loopback or address.is_unspecified
