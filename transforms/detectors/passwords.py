"""Passwords that stand beside their name: `password: "…"`, `DB_PWD=…`, `<password>…</password>`, "the password is …".

Prose and code are full of the word, so a value counts only if it is quoted and could be nothing else, or if it has
letters together with digits or signs as no word and no name of a variable has. `detect-secrets` has expressions for
this, made for lines of one known language; its filters of what is no secret are used here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain

from detect_secrets.filters.heuristic import is_prefixed_with_dollar_sign, is_templated_secret

from transforms.detectors.base import Finding

_REPEATED = r"(?:[_-]?(?:confirmation|confirm|repeat|again))?[0-9]{0,2}"
_NAMES = (
    re.compile(r"pass(?:word|wd|phrase|wort)" + _REPEATED),
    re.compile(r"pass(?!word|wd|phrase|wort)(?<![a-z]pass)" + _REPEATED),
    re.compile(r"pwd(?<!oldpwd)" + _REPEATED),
)
"""In a folded text; what follows decides. Each begins with letters, so it is quick to find."""
_CLOSING = r"(?:\\?[\"'`\]*]){0,3}"
_SIGN = r"(?:=>|:=|={1,3}|:)"
_WORD = r"[^\s\"'`<>(),;&\[\]{}|\\]{6,128}"
_QUOTED = re.compile(
    _CLOSING + r"[ \t]{0,8}(?:" + _SIGN + r"|(?<=[ \t])is\b)\*{0,2}[ \t]{0,8}@?"
    r"(\\?[\"'`])(?P<value>[^\s\"'`\\]{3,128})\1"
)
_BARE = re.compile(
    _CLOSING + r"(?:[ \t]{0,8}" + _SIGN + r"\*{0,2}[ \t]{0,8}|[ \t]{1,8}is[ \t]{1,8})"
    r"(?P<value>" + _WORD + r")(?=[\s\"'`<,;&\\)|]|$)"
)
_ARGUMENT = re.compile(r"[ \t]{1,4}(?P<value>" + _WORD + r")(?=\s|$)")
_OPTION = re.compile(r"(?<!\S)--?[\w-]{0,30}\Z")
"""What stands before the name in `--store-password …`."""
_ELEMENT = re.compile(r">(?P<value>[^<>\s]{3,128})</")
_TAG = re.compile(r"<[\w.:-]{0,40}\Z")

_PLACEHOLDER = re.compile(r"\[[A-Z_]+\]")
_PATH = re.compile(r"[~.]{0,2}/|[A-Za-z]:[\\/]|.*://")
_VERSION = re.compile(r"[\^~>=v]{0,2}[0-9]+(?:\.[0-9x*]+)+")
_EXPRESSION = re.compile(
    r"[A-Za-z_$@%][\w$]*(?:(?:\.|->|::)[\w$]+)+|.*(?:\(\?|\{\{|%\(|\$\{|\w\().*|[\^%@#].*"
)
"""`req.body.password`, `Ti.UI.PASSWORD`, an expression for checking, a template."""
_LABEL = re.compile(r"[A-Z][a-z]+|[^\x00-\x7f]+|\w*[^\x00-\x7f]\w*")
"""`Passwort`, `Heslo`, `contraseña`: what a translation of the name looks like."""
_VARIABLE = re.compile(r"\$?[A-Za-z_]+[0-9]?")
_METHODS = re.compile(
    r"(?:sha|md|aes|utf|hs|rs|base|pbkdf|argon|scrypt|bcrypt|crypt|x509|pkcs|ntlm|rfc|latin|iso|2fa|p12)[-_]?[0-9]*",
    re.IGNORECASE,
)
_SIGNS = re.compile(r"[!@#$%^*+~?]")
_HIDDEN = re.compile(r"(.)\1*|[*x.•_\-]+", re.IGNORECASE)
NO_PASSWORDS = frozenset((
    "string", "str", "text", "char", "varchar", "int", "integer", "bool", "boolean", "number", "object",
    "array", "bytes", "null", "none", "nil", "undefined", "true", "false", "empty", "blank", "optional",
    "required", "mandatory", "missing", "invalid", "incorrect", "wrong", "valid", "correct", "hidden",
    "masked", "encrypted", "hashed", "redacted", "removed", "censored", "omitted", "value", "values", "input",
    "field", "label", "type", "name", "key", "user", "username", "login", "email", "default", "placeholder",
    "example", "sample", "plain", "plaintext", "prompt", "ask", "file", "env", "stdin", "keychain", "vault",
    "md5", "sha1", "sha256", "bcrypt", "base64", "hash", "digest", "token", "secret", "wachtwoord", "senha",
    "heslo", "contrasena", "parola", "salasana", "jelszo", "haslo", "lozinka", "kennwort",
))  # fmt: skip
"""Types, states, labels and translations, in small letters."""


def find_passwords(text: str) -> Iterator[Finding]:
    """Values that are certainly passwords by the name beside them."""
    folded = text.lower() if text.isascii() else text.replace("İ", "i").lower()
    for name in chain.from_iterable(names.finditer(folded) for names in _NAMES):
        before = folded[max(0, name.start() - 42) : name.start()]
        if quoted := _QUOTED.match(folded, name.end()):
            span, is_one = quoted.span("value"), True
        elif (element := _ELEMENT.match(folded, name.end())) and _TAG.search(before):
            span, is_one = element.span("value"), True
        elif bare := _BARE.match(folded, name.end()):
            span = _without_stop(text, *bare.span("value"))
            is_one = _is_evident(text[slice(*span)])
        elif (argument := _ARGUMENT.match(folded, name.end())) and _OPTION.search(before):
            span = _without_stop(text, *argument.span("value"))
            is_one = text[slice(*span)].isdigit() or _is_evident(text[slice(*span)])
        else:
            continue
        if is_one and not _is_none(text[slice(*span)]):
            yield Finding("PASSWORD", *span)


def _without_stop(text: str, start: int, end: int) -> tuple[int, int]:
    return start, start + len(text[start:end].rstrip(".:*"))


def is_stand_in(value: str) -> bool:
    """Whether a value stands for a password that is elsewhere: a variable, template, path, stars, its own name."""
    if not value or is_templated_secret(value) or is_prefixed_with_dollar_sign(value):
        return True
    if any(pattern.fullmatch(value) for pattern in (_HIDDEN, _VERSION, _EXPRESSION)):
        return True
    if _PATH.match(value) or _PLACEHOLDER.search(value):
        return True
    return _names_itself(value) and not any(map(str.isdigit, value))


def _is_none(value: str) -> bool:
    """Whether a value stands for a password, or for what one looks like."""
    if _LABEL.fullmatch(value) or value.lower().split("|")[0] in NO_PASSWORDS:
        return True
    return is_stand_in(value)


def _names_itself(value: str) -> bool:
    return any(names.search(value.lower()) for names in _NAMES)


def _is_evident(value: str) -> bool:
    """Whether a value without quotes is neither a word nor the name of something."""
    if len(value) < 6 or _VARIABLE.fullmatch(value) or _METHODS.match(value) or _names_itself(value):
        return False
    letters, digits = any(map(str.isalpha, value)), any(map(str.isdigit, value))
    return letters and (digits or _SIGNS.search(value.rstrip("!?")) is not None)
