"""Passwords in commands, where they may be any word: `mysql -psecret`, `curl -u me:secret`, `PGPASSWORD=secret psql`.

What tells them from prose is the program and its option, or that another option follows. A value counts unless it
stands for one: a variable, a template, stars, `YOUR_PASS`, or a word of whoever writes about the option.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain, zip_longest
from typing import NamedTuple

from transforms.detectors.base import Finding
from transforms.detectors.passwords import is_stand_in

MAX_COMMAND_CHARS = 500
_VALUE = r"(?P<quote>[\"']?)(?P<value>(?!-)[^\s\"'`<>(){}\[\]|;&,\\]{4,128})(?P=quote)(?![^\s\"'`|;&)\\])"


class _Program(NamedTuple):
    """A program's name, which each of its commands holds, and what in them is a password."""

    name: str
    head: re.Pattern[str]
    option: re.Pattern[str]


def _program(name: str, option: str, more: str = "") -> _Program:
    # The name comes first, so that texts without it are passed over quickly.
    head = rf"{re.escape(name)}(?<![\w.\-]{re.escape(name)}){more}(?:\.exe)?(?=\s+\S)"
    return _Program(name, re.compile(head), re.compile(option))


_LOGIN = r"\s(?:[^\n]{0,200}?\s)?-p\s{1,4}" + _VALUE
_USER = r"(?=[\"']?[^\s:\"']{1,64}:)(?P<quote>[\"']?)[^\s:\"']{1,64}:(?!//)"
_PROGRAMS = (
    _program("mysql", r"\s-p(?!ort\b|rotocol\b|rompt\b|lugin\b|ipe\b|ass)" + _VALUE, "[a-z]{0,8}"),
    _program("mariadb", r"\s-p(?!ort\b|rotocol\b|ass)" + _VALUE, "(?:-[a-z]{1,8})?"),
    _program("sshpass", r"\s-p\s{0,4}" + _VALUE),
    _program(
        "curl",
        r"\s(?:-[a-zA-Z]{0,4}[uU]\s{0,4}|--(?:proxy-)?user[\s=]\s{0,4})"
        + _USER
        + _VALUE.replace(r"(?P<quote>[\"']?)", ""),
    ),
    *(_program(f"{name} login", _LOGIN) for name in ("docker", "podman", "registry", "oc", "az")),
    _program("mongo", r"\s-p\s{0,4}" + _VALUE, "(?:sh|dump|restore|import|export)?"),
    _program("redis-cli", r"\s(?:-a|--pass)\s{1,4}" + _VALUE),
    _program("ldap", r"\s-w\s{0,4}" + _VALUE, "(?:search|modify|add|delete|whoami|passwd)"),
    _program("sqlcmd", r"\s-P\s{0,4}" + _VALUE),
    _program("zip", r"\s-P\s{1,4}" + _VALUE),
    _program("unzip", r"\s-P\s{1,4}" + _VALUE),
    _program("7z", r"\s-p" + _VALUE, "[ar]?"),
    _program("smbclient", r"\s-U\s{0,4}[^\s%\"']{1,64}%" + _VALUE),
)
_OPTION = re.compile(r"-(?<=\s-)-?[a-zA-Z]")
"""What each command of `_PROGRAMS` has; most texts have none."""
_END = re.compile(r"(?<!\\)\n|[|;]|&&")

_ELSEWHERE = (
    # Any program's `--password`, where the line goes on with another option, or had the user before.
    (
        "-pass",
        re.compile(
            r"-pass(?:word|wd|phrase)[ \t]{1,4}" + _VALUE + r"(?=[ \t]{1,4}(?:\\\n\s{0,20})?--?[a-zA-Z])"
        ),
    ),
    ("-user", re.compile(r"-user(?:name)?[ =][^\s<>{}$]{1,64} --?pass(?:word|wd) " + _VALUE)),
    # Of Java's and Android's tools, and of OpenSSL.
    ("storepass", re.compile(r"(?:-|-src|-dest|-new)storepass[ \t]{1,4}" + _VALUE)),
    ("keypass", re.compile(r"(?:-|-src|-dest|-new)keypass[ \t]{1,4}" + _VALUE)),
    ("pass:", re.compile(r"pass(?:in|out)?[ =]pass:" + _VALUE)),
    # Of the environment of a command.
    ("PGPASSWORD=", re.compile(r"PGPASSWORD=" + _VALUE)),
    ("MYSQL_PWD=", re.compile(r"MYSQL_PWD=" + _VALUE)),
    ("SSHPASS=", re.compile(r"SSHPASS=" + _VALUE)),
    *(
        (
            f"_{name}=",
            re.compile(
                rf"(?:\bexport|(?<!\S)-e|(?<!\S)--env)[ =](?:[A-Z0-9]{{1,20}}_){{1,4}}{name}=" + _VALUE
            ),
        )
        for name in ("PASSWORD", "PASSWD", "PASS", "PWD")
    ),
)
"""What every text with a match holds, and the expression."""
_IN_ALL_ELSEWHERE = ("pass", "PASS", "PWD")
"""One of them is in whatever those match."""

_SHOUTED = re.compile(r"[A-Z][A-Z_\-]*")
"""`YOUR_SECRET`: what the author of a manual leaves to its reader."""
NO_VALUES = frozenset((
    "and", "or", "is", "are", "was", "were", "be", "in", "of", "for", "from", "to", "by", "with", "without",
    "when", "then", "as", "at", "it", "the", "this", "that", "these", "if", "not", "but", "also", "only", "using",
    "option", "options", "argument", "arguments", "parameter", "parameters", "param", "params", "flag", "flags",
    "switch", "switches", "value", "values", "field", "setting", "settings", "key", "keys", "arg", "args", "set",
    "must", "should", "can", "cannot", "may", "will", "would", "does", "has", "have", "works", "fails", "needs",
    "prompt", "file", "stdin", "env", "none", "null", "true", "false", "redacted", "hidden", "removed", "masked",
    "omitted", "token", "yes", "no", "on", "off", "string", "text", "user", "username", "foo", "bar", "baz",
))  # fmt: skip
"""What stands after an option in prose, or for a password in a manual."""


def find_command_passwords(text: str) -> Iterator[Finding]:
    """Values that a program takes for a password."""
    for match in chain(_of_programs(text), _of_any_program(text)):
        start, end = match.span("value")
        end = start + len(text[start:end].rstrip(".:"))
        if _is_one(text[start:end]):
            yield Finding("PASSWORD", start, end)


def _of_programs(text: str) -> Iterator[re.Match[str]]:
    if not _OPTION.search(text):
        return
    for name, head, option in _PROGRAMS:
        if name not in text:
            continue
        heads = list(head.finditer(text))
        for one, following in zip_longest(heads, heads[1:]):
            limit = min(following.start() if following else len(text), one.end() + MAX_COMMAND_CHARS)
            stop = _END.search(text, one.end(), limit)
            yield from option.finditer(text, one.end(), stop.start() if stop else limit)


def _of_any_program(text: str) -> Iterator[re.Match[str]]:
    if not any(part in text for part in _IN_ALL_ELSEWHERE):
        return
    for needs, pattern in _ELSEWHERE:
        if needs in text:
            yield from pattern.finditer(text)


def _is_one(value: str) -> bool:
    if len(value) < 4 or is_stand_in(value) or _SHOUTED.fullmatch(value):
        return False
    return value.lower() not in NO_VALUES
