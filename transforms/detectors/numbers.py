"""Numbers of people: telephone, social security, social insurance, payment card."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from phonenumbers import Leniency, NumberParseException, PhoneNumberMatcher, is_valid_number, parse
from stdnum import luhn
from stdnum.ca import sin
from stdnum.us import ssn

from transforms.detectors.base import Finding
from transforms.detectors.prefilters import has_long_number

_REGION = re.compile(r"[0-9](?:[ \u00a0.()\-]{0,2}[0-9]){8,}")
"""Where nine digits or more (`LONG_NUMBER`) stand together; only there the others look."""

_BEFORE = r"(?<![\w.\-/@%$])"
_AFTER = r"(?![\w\-/@%]|[.,:][0-9])"
_SSN = re.compile(_BEFORE + r"[0-9]{3}-[0-9]{2}-[0-9]{4}" + _AFTER)
_SIN = re.compile(_BEFORE + r"[0-9]{3}([ \u00a0\-])[0-9]{3}\1[0-9]{3}" + _AFTER)
_CARD = re.compile(
    _BEFORE + r"(?:[0-9]{15,16}"
    r"|[0-9]{4}([ \-])[0-9]{4}\1[0-9]{4}\1[0-9]{4}(?:\1[0-9]{3})?"
    r"|[0-9]{4}([ \-])[0-9]{6}\2[0-9]{4,5})" + _AFTER
)
_NORTH_AMERICAN = re.compile(
    r"(?<![\w.\-/@%$+])(?:1[ \u00a0.\-])?(?:\([0-9]{3}\)[ \u00a0]?|[0-9]{3}[ \u00a0.\-])[0-9]{3}[.\-][0-9]{4}"
    + _AFTER
)
_INTERNATIONAL = re.compile(r"\+[1-9](?:[ \u00a0().\-/]{0,2}[0-9]){6,16}")

_ISSUERS = re.compile(
    r"4[0-9]{15}(?:[0-9]{3})?"  # Visa
    r"|(?:5[1-5][0-9]{2}|222[1-9]|22[3-9][0-9]|2[3-6][0-9]{2}|27[01][0-9]|2720)[0-9]{12}"  # Mastercard
    r"|3[47][0-9]{13}"  # American Express
    r"|3(?:0[0-5]|[689][0-9])[0-9]{11}"  # Diners Club
    r"|(?:6011|65[0-9]{2}|64[4-9][0-9])[0-9]{12}"  # Discover
    r"|35(?:2[89]|[3-8][0-9])[0-9]{12}"  # JCB
    r"|62[0-9]{14}(?:[0-9]{3})?"  # UnionPay
)
"""Issuers by the first digits (ISO/IEC 7812), with the lengths they give out."""


def find_numbers(text: str) -> Iterator[Finding]:
    """Telephone, social security (US), social insurance (Canada) and card numbers.

    Telephone numbers are those that begin with a country code, and North American ones written with their separators:
    ten digits alone are as often a time or an id.
    """
    for region in _REGION.finditer(text) if has_long_number(text) else ():
        start, end = max(0, region.start() - 1), min(len(text), region.end() + 2)
        for match in _SSN.finditer(text, start, end):
            if ssn.is_valid(match.group()):
                yield Finding("SSN", *match.span())
        for match in _SIN.finditer(text, start, end):
            if sin.is_valid(match.group()):
                yield Finding("SIN", *match.span())
        for match in _CARD.finditer(text, start, end):
            if is_card(match.group()):
                yield Finding("CARD", *match.span())
        for match in _NORTH_AMERICAN.finditer(text, start, end):
            if _is_phone(match.group()):
                yield Finding("PHONE", *match.span())
    for match in _INTERNATIONAL.finditer(text):
        yield from _international(text, match)


def is_card(written: str) -> bool:
    """Whether a number has an issuer's first digits and length, and the right check digit.

    No account ends with eight zeros; floating-point registers in crash dumps do.
    """
    digits = re.sub("[^0-9]", "", written)
    if digits.endswith("00000000") or _ISSUERS.fullmatch(digits) is None:
        return False
    return bool(luhn.is_valid(digits))


@lru_cache(maxsize=1024)
def _is_phone(written: str) -> bool:
    """Whether a number as it is written is one; the same few stand below many mails."""
    try:
        return is_valid_number(parse(written, "US"))
    except NumberParseException:
        return False


def _international(text: str, match: re.Match[str]) -> Iterator[Finding]:
    if match.start() and (text[match.start() - 1].isalnum() or text[match.start() - 1] in "+-_."):
        return
    for phone in PhoneNumberMatcher(match.group(), None, leniency=Leniency.STRICT_GROUPING):
        yield Finding("PHONE", match.start() + phone.start, match.start() + phone.end)
