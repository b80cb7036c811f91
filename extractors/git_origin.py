"""Pure: from the URL of a remote to the name of a project and the page a person opens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

_HOST = re.compile(r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+")
_PATH = re.compile(r"[A-Za-z0-9._~-]+(?:/[A-Za-z0-9._~-]+)+")
_SCP = re.compile(r"(?:[^@/\s]+@)?(?P<host>[A-Za-z0-9.-]+):(?P<path>[^\s]+)")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a repository lives on the web.

    Args:
        web_url: `https://host/owner/repo`, never with credentials.
        project: `owner/repo`; empty where the path has more parts than that (subgroups).
    """

    web_url: str
    project: str


def parse_origin(url: str) -> Origin | None:
    """Read a remote's URL: https, http, ssh, git or `user@host:owner/repo.git`.

    Returns:
        None for anything else (a local path, an ssh alias without a dot). User, password, query and fragment are
        dropped, and so is the port, except that of http and https.
    """
    try:
        parts = urlsplit(url.strip())
        scheme, host, port, path = parts.scheme, parts.hostname or "", parts.port, parts.path
    except ValueError:
        return None
    if "://" not in url:
        scp = _SCP.fullmatch(url.strip())
        if scp is None:
            return None
        scheme, host, port, path = "ssh", scp["host"], None, scp["path"]
    path = path.strip("/").removesuffix(".git")
    if (
        scheme not in ("https", "http", "ssh", "git")
        or not _HOST.fullmatch(host)
        or not _PATH.fullmatch(path)
    ):
        return None
    web_scheme = scheme if scheme in ("https", "http") else "https"
    web_port = f":{port}" if port and scheme == web_scheme else ""
    return Origin(f"{web_scheme}://{host}{web_port}/{path}", path if path.count("/") == 1 else "")
