"""Replace secrets and personal data in a text by typed placeholders such as `[EMAIL]`. Pure; knows no Beam."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from transforms.detectors.addresses import find_emails, find_ips
from transforms.detectors.base import KINDS, Detector, Finding
from transforms.detectors.commands import find_command_passwords
from transforms.detectors.numbers import find_numbers
from transforms.detectors.passwords import find_passwords
from transforms.detectors.secrets import find_secrets

REDACTOR_VERSION = 4
"""Part of the fingerprint of what was redacted: raise it when the same text would be redacted in another way."""

DETECTORS: tuple[Detector, ...] = (
    find_secrets,
    find_passwords,
    find_command_passwords,
    find_emails,
    find_numbers,
    find_ips,
)

_BETWEEN_TEXTS = "\n\0\n"
"""To a detector as good as an end and a beginning: no expression goes over it, or sees what is beyond."""

MAX_PASSES = 8
"""A placeholder may set free what stood against the value it replaced; each pass leaves less to find."""


def redact_text(text: str) -> tuple[str, Counter[str]]:
    """`text` with placeholders, and how many of each kind; redacting again changes nothing."""
    counts: Counter[str] = Counter()
    for _ in range(MAX_PASSES):
        findings = merged(finding for detect in DETECTORS for finding in detect(text))
        if not findings:
            break
        counts.update(finding.kind for finding in findings)
        text = _replaced(text, findings)
    return text, counts


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Findings in order, those that overlap as one, so that no part of a value is left."""
    together: list[Finding] = []
    for finding in sorted(findings, key=lambda one: (one.start, one.end)):
        if together and finding.start < together[-1].end:
            last = together.pop()
            kind = min(last.kind, finding.kind, key=KINDS.index)
            finding = Finding(kind, last.start, max(last.end, finding.end))
        together.append(finding)
    return together


def _replaced(text: str, findings: Iterable[Finding]) -> str:
    parts, reached = [], 0
    for finding in findings:
        parts += [text[reached : finding.start], f"[{finding.kind}]"]
        reached = finding.end
    return "".join([*parts, text[reached:]])


def redact_value(value: Any) -> tuple[Any, Counter[str]]:
    """A JSON-able value with every string in it redacted, names of members too; numbers stay."""
    counts: Counter[str] = Counter()
    if not found_in_any(strings_in(value)):
        return value, counts

    def walk(item: Any) -> Any:
        if isinstance(item, str):
            text, found = redact_text(item)
            counts.update(found)
            return text
        if isinstance(item, Mapping):
            return {walk(name): walk_member(name, member) for name, member in item.items()}
        if isinstance(item, list | tuple):
            return [walk(member) for member in item]
        return item

    def walk_member(name: Any, member: Any) -> Any:
        if is_password_member(name, member):
            counts["PASSWORD"] += 1
            return "[PASSWORD]"
        return walk(member)

    return walk(value), counts


def strings_in(value: Any) -> Iterator[str]:
    """Every string of a JSON-able value, names of members too, and beside each name of a password what it has."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, member in value.items():
            yield from strings_in(name)
            yield from strings_in(member)
            if is_password_member(name, member):
                yield _as_assigned(name, member)
    elif isinstance(value, list | tuple):
        for member in value:
            yield from strings_in(member)


def is_password_member(name: Any, member: Any) -> bool:
    """Whether a member of a JSON object is a password by its name, as it would be if it stood in a text."""
    if not isinstance(name, str) or not isinstance(member, str):
        return False
    folded = name.lower()
    if "pass" not in folded and "pwd" not in folded:
        return False
    return any(finding.start > len(name) for finding in find_passwords(_as_assigned(name, member)))


def _as_assigned(name: str, member: str) -> str:
    return f'{name}: "{member}"'


def found_in_any(texts: Iterable[str]) -> bool:
    """Whether something is found in one of several texts, which takes a look at them all together; it may say yes
    where nothing is."""
    together = _BETWEEN_TEXTS.join(texts)
    return any(True for detect in DETECTORS for _ in detect(together))
