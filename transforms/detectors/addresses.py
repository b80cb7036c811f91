"""Addresses of people and of their machines: e-mail and IP."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from publicsuffixlist import PublicSuffixList

from transforms.detectors.base import Finding

_AT_DOMAIN = re.compile(r"@[A-Za-z0-9][A-Za-z0-9.\-]{0,252}\.[A-Za-z]{2,63}(?![A-Za-z0-9_])")
_LOCAL_PART = frozenset("._%+-'&=~!#$*/?^{|}")
"""Beside letters and digits, of RFC 5322's `atext`, and the dot."""
MAX_LOCAL_CHARS = 64
"""RFC 5321, 4.5.3.1.1."""
INTERNAL_DOMAINS = frozenset(
    {"example", "invalid", "test", "local", "localhost", "internal", "intranet", "lan", "corp", "home"}
)
"""Top-level domains that no registry gives out, and people use within (RFC 2606, 6761, 6762, 9476)."""
REPOSITORY_USERS = frozenset({"git", "hg", "svn"})
"""`git@github.com:acme/web.git` is where a repository lies; nobody reads mail there."""
_RETINA = re.compile(r"@[1-9]x[.~\-]")
"""`icon@2x.mov`: how Apple names pictures by resolution."""

_PASSWORD_OF_URL = re.compile(r"://[^\s/?#:@]{0,256}:\Z")
"""What comes before the password in `https://user:password@host.example`."""


@cache
def _suffixes() -> PublicSuffixList:
    return PublicSuffixList(accept_unknown=False, only_icann=True)


def find_emails(text: str) -> Iterator[Finding]:
    """E-mail addresses with a domain that exists, by the Public Suffix List, or that people use within."""
    for match in _AT_DOMAIN.finditer(text):
        start = _start_of_local_part(text, match.start())
        local, domain = text[start : match.start()], match.group()[1:].lower()
        if not local or local in REPOSITORY_USERS or _RETINA.match(match.group()) or not _exists(domain):
            continue
        if _PASSWORD_OF_URL.search(text, max(0, start - 260), start):
            continue
        yield Finding("EMAIL", start, match.end())


def _start_of_local_part(text: str, at: int) -> int:
    start = at
    while start > 0 and at - start < MAX_LOCAL_CHARS:
        char = text[start - 1]
        if not (char.isalnum() or char in _LOCAL_PART):
            break
        start -= 1
    # What may stand in a local part is rather punctuation before it: 'a@b.example', to=a@b.example, x/a@b.example
    while start < at and not (text[start].isalnum() or text[start] == "_"):
        start += 1
    return max(start, *(text.rfind(mark, start, at) + 1 for mark in "/=?&"))


def _exists(domain: str) -> bool:
    labels = domain.split(".")
    if "" in labels or all(label.isdigit() for label in labels[:-1]):
        return False
    return labels[-1] in INTERNAL_DOMAINS or _suffixes().privatesuffix(domain) is not None


_QUAD_TAIL = re.compile(r"\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}(?![\w])")
_AROUND = 24
_SAYS_ADDRESS = re.compile(
    r"(?:://|@|\b(?:ip|ipv4|ips|addr|address|host|hostname|peer|remote|remote_addr|src|dst|dns|"
    r"nameserver|gateway|ping|ssh|telnet|nslookup|traceroute|inet|x-forwarded-for)\b"
    r"[\s:=\"'(\[/]{1,4}(?:is |to |of )?)$",
    re.IGNORECASE,
)
_SAYS_VERSION = re.compile(
    r"(?:\b(?:v|ver|version|versions|release|released|rel|build|sdk|upgrade|update|updated|upgraded|patch|"
    r"firmware|jdk|jre|java|chrome|driver|assembly|fileversion|productversion|section|oid|rev|revision)"
    r"[\s:=\"'(\[]{0,4}(?:to |from |is |of |>=? ?|<=? ?)?|[~^])$",
    re.IGNORECASE,
)
HIGH_OCTET = 20


def find_ips(text: str) -> Iterator[Finding]:
    """Public IP addresses: private, local and documentation ones name nobody outside.

    Four numbers are an address rather than a version where the words before say so, a port or prefix length
    follows, or two of them are at least 20.
    """
    yield from _ipv4(text)
    yield from _ipv6(text)


def _ipv4(text: str) -> Iterator[Finding]:
    for match in _QUAD_TAIL.finditer(text):
        start, end = match.start(), match.end()
        while start > 0 and match.start() - start < 3 and text[start - 1] in "0123456789":
            start -= 1
        before, after = text[max(0, start - _AROUND) : start], text[end : end + 2]
        if start == match.start() or _is_part(before, after):
            continue
        try:
            address = IPv4Address(text[start:end])
        except AddressValueError:
            continue
        if _is_personal(address) and _is_address_rather_than_version(address, before, after):
            yield Finding("IP", start, end)


def _is_part(before: str, after: str) -> bool:
    """Of a longer number, a name or a file: `1.2.3.4.5`, `lib-1.2.3.4`, `1.2.3.4-rc1`."""
    if before and (before[-1].isalnum() or before[-1] in "_.-$"):
        return True
    return bool(after) and (after[0] in "_+" or (after[0] in ".-" and after[1:2].isalnum()))


def _is_personal(address: IPv4Address | IPv6Address) -> bool:
    return address.is_global and not address.is_multicast


def _is_address_rather_than_version(address: IPv4Address, before: str, after: str) -> bool:
    if _SAYS_VERSION.search(before):
        return False
    if _SAYS_ADDRESS.search(before) or (after[:1] in (":", "/") and after[1:].isdigit()):
        return True
    return sum(octet >= HIGH_OCTET for octet in address.packed) >= 2


_COLONS = re.compile(r":[0-9A-Fa-f]{0,4}:")
_HEX_AND_COLONS = frozenset("0123456789abcdefABCDEF:")
MAX_IPV6_CHARS = 39


def _ipv6(text: str) -> Iterator[Finding]:
    """Global unicast, 2000::/3 (RFC 4291): a scope in C++ or a time of day never looks like that."""
    reached = 0
    for match in _COLONS.finditer(text):
        if match.start() < reached:
            continue
        start, end = match.span()
        while (
            start > reached and match.start() - start < MAX_IPV6_CHARS and text[start - 1] in _HEX_AND_COLONS
        ):
            start -= 1
        while end < len(text) and end - start <= MAX_IPV6_CHARS and text[end] in _HEX_AND_COLONS:
            end += 1
        reached = end
        value = text[start:end]
        if not value.endswith("::"):
            value = value.rstrip(":")
        if text[start] not in "23" or text[start + 4 : start + 5] != ":":
            continue
        if start > 0 and (text[start - 1].isalnum() or text[start - 1] in "_.-"):
            continue
        try:
            address = IPv6Address(value)
        except AddressValueError:
            continue
        if _is_personal(address):
            yield Finding("IP", start, start + len(value))
