"""Pure: references to issues, pull requests and commits in a text, as links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from heapq import merge
from itertools import repeat

from schemas.documents import Link

MAX_LINKS = 1000
"""Most links of one text; a pasted change log names no more that anyone would follow."""

_NUMBER = r"[1-9][0-9]{0,6}"
# Each with what must stand somewhere in a text that has one, and each beginning with what can be skipped to fast:
# most texts are mostly prose, and one expression for all kinds would try all of them at every character of it.
_KINDS = {
    "url": (re.compile("://"), re.compile(r"https?://[^\s<>\"'`|\\^{}\[\]]+", re.ASCII)),
    "jira": (
        re.compile(r"-(?<=[A-Z0-9]-)[1-9]"),
        re.compile(
            r"[A-Z](?<![0-9A-Za-z].)(?<![0-9A-Fa-f]{4}-.)"  # the second: inside a UUID
            rf"[A-Z0-9]{{1,19}}-{_NUMBER}(?![0-9A-Za-z]|\.[0-9]|-[0-9A-Fa-f]{{4}}-)"
        ),
    ),
    "repo_issue": (
        re.compile(r"#(?<=[\w.-]#)[1-9]", re.ASCII),
        re.compile(
            r"[A-Za-z0-9](?<![\w./@-].)"
            rf"[A-Za-z0-9-]{{0,38}}/[\w.-]{{1,100}}\#{_NUMBER}(?!\w|\.[0-9])",
            re.ASCII,
        ),
    ),
    "issue": (
        re.compile(r"#[1-9]"),
        re.compile(
            r"\#(?<![\w&\#/].)(?<!\]\(.)(?<!=[\"'].)"  # an entity, an anchor
            rf"{_NUMBER}(?!\w|\.[0-9])",
            re.ASCII,
        ),
    ),
    "commit": (
        re.compile(r"[0-9a-f]{40}"),
        re.compile(r"[0-9a-f](?<![\w\#].)[0-9a-f]{39}(?!\w)", re.ASCII),
    ),
}
_GITHUB_URL = re.compile(
    r"https?://(?:www\.)?github\.(?:com|[\w.-]+)(?::\d+)?/(?P<repository>[\w.-]+/[\w.-]+)/"
    rf"(?:(?:issues|pull)/(?P<number>{_NUMBER})|commit/(?P<sha>[0-9a-f]{{40}}))(?!\w)",
    re.ASCII,
)
_JIRA_URL = re.compile(rf"/browse/(?P<key>[A-Z][A-Z0-9]{{1,19}}-{_NUMBER})(?!\w)", re.ASCII)

# Words that GitHub takes as "this closes that", right before the reference.
_FIXING = re.compile(
    r"(?<![\w-])(?:close[sd]?|fix(?:e[sd])?|resolve[sd]?)\s?:?[ \t]{1,3}[\[(]?\Z", re.ASCII | re.IGNORECASE
)
_FIXING_REACH = 20
_CSS = re.compile(
    r"(?:color|background|border|fill|stroke|shadow|outline|gradient)[\w-]*[\"']?\s*[:=(][^;{}\n]*\Z"
)
_CSS_REACH = 64

# Written like a key of Jira, but a standard, a licence or a machine. Words that may well name a project stay in.
_NO_PROJECTS = frozenset({
    "AES", "AGPL", "AMD", "ANSI", "ARM", "ASCII", "BSD", "COVID", "CRC", "CVE", "CWE", "DES", "ECMA", "FIPS", "GMT",
    "GPL", "GPT", "HTTP", "HTTPS", "IEC", "IEEE", "IETF", "ISO", "JEP", "JPEG", "JSR", "LATIN", "LGPL", "MPEG",
    "MPL", "NIST", "PEP", "POSIX", "RFC", "RHEL", "RSA", "SHA", "SHA2", "SHA3", "SSL", "TLS", "UCS", "UTC", "UTF",
    "X509", "X86",
})  # fmt: skip


def find_references(text: str, repository: str = "") -> tuple[Link, ...]:
    """Jira keys, GitHub issues and pulls, and full commit shas in `text`, in order of first appearance.

    Read are `ABC-12`, `/browse/ABC-12`, `#12` and `GH-12`, `owner/repo#12`, GitHub URLs of issues, pulls and
    commits, and 40 hexadecimal digits. The relation is `fixes` after a word by which GitHub closes an issue, else
    `mentions`; one target has one link, and `fixes` wins. Time is linear in the text.

    Args:
        repository: `owner/repo` that a bare `#12` belongs to; without it such references are left out.
    Returns:
        At most `MAX_LINKS`.
    """
    relations: dict[tuple[str, str], str] = {}
    for kind, match in _matches(text):
        target = _target(kind, match, repository)
        if target is None or (len(relations) == MAX_LINKS and target not in relations):
            continue
        start = match.start()
        if _FIXING.search(text, max(0, start - _FIXING_REACH), start):
            relations[target] = "fixes"
        else:
            relations.setdefault(target, "mentions")
    return tuple(Link(relation, kind, key) for (kind, key), relation in relations.items())


def _matches(text: str) -> Iterator[tuple[str, re.Match[str]]]:
    """What looks like a reference, in order, with its kind; nothing is read within what was read as another."""
    found = (
        zip(repeat(kind), pattern.finditer(text))
        for kind, (hint, pattern) in _KINDS.items()
        if hint.search(text)
    )
    reached = 0
    for kind, match in merge(*found, key=lambda item: item[1].start()):
        if match.start() >= reached:
            reached = match.end()
            yield kind, match


def _target(kind: str, match: re.Match[str], repository: str) -> tuple[str, str] | None:
    """Kind and key of what was found, None if it only looks like a reference."""
    found = match[0]
    match kind:
        case "url":
            return _url_target(found)
        case "jira":
            return _key_target(found, repository)
        case "repo_issue":
            return ("github", found)
        case "issue":
            return None if not repository or _is_colour(match) else ("github", repository + found)
        case _:
            return ("commit", found) if found.strip("0") else None


def _key_target(key: str, repository: str) -> tuple[str, str] | None:
    project, _, number = key.partition("-")
    if project == "GH":
        return ("github", f"{repository}#{number}") if repository else None
    return None if project in _NO_PROJECTS else ("jira_issue", key)


def _url_target(url: str) -> tuple[str, str] | None:
    if page := _GITHUB_URL.match(url):
        if page["sha"]:
            return ("commit", page["sha"])
        return ("github", f"{page['repository']}#{page['number']}")
    if issue := _JIRA_URL.search(url):
        return ("jira_issue", issue["key"])
    return None


def _is_colour(match: re.Match[str]) -> bool:
    digits, start = len(match[0]) - 1, match.start()
    return digits in (3, 4, 6) and _CSS.search(match.string, max(0, start - _CSS_REACH), start) is not None
