"""Keys, tokens and passwords, by the expressions of `detect-secrets`, which its maintainers keep.

They are run over whole texts instead of line by line, and only where a text holds what an expression cannot do
without: four of them alone would take longer than everything else here, and most texts have no word that is long
enough for a key. Its guesses by entropy are left out, as every commit sha is one; so are those by the name of a
variable, as issues are full of `password` and `token` in prose.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from detect_secrets.plugins.artifactory import ArtifactoryDetector
from detect_secrets.plugins.aws import AWSKeyDetector
from detect_secrets.plugins.azure_storage_key import AzureStorageKeyDetector
from detect_secrets.plugins.base import RegexBasedDetector
from detect_secrets.plugins.cloudant import CloudantDetector
from detect_secrets.plugins.discord import DiscordBotTokenDetector
from detect_secrets.plugins.github_token import GitHubTokenDetector
from detect_secrets.plugins.gitlab_token import GitLabTokenDetector
from detect_secrets.plugins.ibm_cloud_iam import IbmCloudIamDetector
from detect_secrets.plugins.ibm_cos_hmac import IbmCosHmacDetector
from detect_secrets.plugins.jwt import JwtTokenDetector
from detect_secrets.plugins.mailchimp import MailchimpDetector
from detect_secrets.plugins.npm import NpmDetector
from detect_secrets.plugins.openai import OpenAIDetector
from detect_secrets.plugins.private_key import PrivateKeyDetector
from detect_secrets.plugins.pypi_token import PypiTokenDetector
from detect_secrets.plugins.sendgrid import SendGridDetector
from detect_secrets.plugins.slack import SlackDetector
from detect_secrets.plugins.softlayer import SoftlayerDetector
from detect_secrets.plugins.square_oauth import SquareOAuthDetector
from detect_secrets.plugins.stripe import StripeDetector
from detect_secrets.plugins.telegram_token import TelegramBotTokenDetector
from detect_secrets.plugins.twilio import TwilioKeyDetector

from transforms.detectors.base import Finding
from transforms.detectors.prefilters import long_words

Needs = str | re.Pattern[str] | None


class Rule(NamedTuple):
    """An expression and what it finds.

    Args:
        needs: what every text with a match holds: a string in its folded form, an expression that finds something
            in the text itself, or nothing that would be quicker to look for.
        group: of the match, the part that is secret.
        is_one: the last word on what was matched.
    """

    kind: str
    pattern: re.Pattern[str]
    needs: Needs = None
    group: int = 0
    is_one: Callable[[str], bool] = bool


def _rules(kind: str, detector: type[RegexBasedDetector], *needs: Needs, group: int = 0) -> list[Rule]:
    """Rules for the expressions of a detector; the last of `needs` serves all that follow."""
    patterns = list(detector.denylist)
    wanted = [*needs, *[needs[-1]] * (len(patterns) - len(needs))]
    return [Rule(kind, pattern, need, group) for pattern, need in zip(patterns, wanted, strict=True)]


_JWT = re.compile(r"eyJ[A-Za-z0-9\-_=]+\.[A-Za-z0-9\-_=]+(?:\.[A-Za-z0-9\-_+/=]*)?")
"""detect-secrets' own ends before the signature: enough to find a token, not to take it away."""

WITHIN_LONG_WORDS: tuple[Rule, ...] = (
    Rule("AWS_KEY", AWSKeyDetector.denylist[0]),
    *_rules("GITHUB_TOKEN", GitHubTokenDetector, None),
    # Fine-grained tokens; Atlassian's and others that detect-secrets 1.5 does not know, as GitHub's and their makers'
    # pages on secret scanning give them.
    Rule("GITHUB_TOKEN", re.compile(r"github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}")),
    *_rules("GITLAB_TOKEN", GitLabTokenDetector, None),
    Rule("ATLASSIAN_TOKEN", re.compile(r"ATATT3[A-Za-z0-9_\-]{20,400}=?[A-F0-9]{0,8}")),
    *_rules("STRIPE_KEY", StripeDetector, None),
    Rule("API_KEY", re.compile(r"AIza[A-Za-z0-9_\-]{35}(?![\w\-])")),
    Rule("API_KEY", re.compile(r"sk-ant-[A-Za-z0-9_\-]{32,200}")),
    Rule("API_KEY", re.compile(r"hf_[A-Za-z]{34}(?!\w)")),
    *_rules("API_KEY", OpenAIDetector, "t3blbkfj"),
    *_rules("API_KEY", PypiTokenDetector, None),
    *_rules("API_KEY", SquareOAuthDetector, None),
    *_rules("API_KEY", MailchimpDetector, "-us"),
    *_rules("API_KEY", TwilioKeyDetector, None),
)
"""These match as much as they need within one of the `long_words`."""

WITH_LONG_WORDS: tuple[Rule, ...] = (
    *_rules("API_KEY", SendGridDetector, "sg."),
    *_rules("API_KEY", DiscordBotTokenDetector, re.compile(r"\.[a-zA-Z\d_-]{6}\.[a-zA-Z\d_-]{27}")),
    *_rules("API_KEY", TelegramBotTokenDetector, re.compile(r":[0-9A-Za-z_\-]{35}")),
    Rule("API_KEY", CloudantDetector.denylist[2], "cloudant", group=1),
    Rule("API_KEY", CloudantDetector.denylist[3], "cloudant", group=1),
    Rule("API_KEY", SoftlayerDetector.denylist[1], "softlayer", group=1),
)
"""These match a long word and what is around it."""

OTHERS: tuple[Rule, ...] = (
    Rule("AWS_KEY", AWSKeyDetector.denylist[1], "aws", group=1),
    *_rules("AZURE_KEY", AzureStorageKeyDetector, "accountkey="),
    *_rules("SLACK_TOKEN", SlackDetector, "xox", "hooks.slack.com"),
    Rule("JWT", _JWT, "eyj", is_one=JwtTokenDetector.is_formally_valid),
    *_rules("API_KEY", NpmDetector, ":_authtoken=", group=1),
    *_rules("API_KEY", ArtifactoryDetector, "akc", re.compile(r"AP[0-9A-F][a-zA-Z0-9]{8}")),
)

ASSIGNED: tuple[Rule, ...] = (
    Rule("API_KEY", CloudantDetector.denylist[0], group=1),
    Rule("API_KEY", CloudantDetector.denylist[1], group=1),
    Rule("API_KEY", SoftlayerDetector.denylist[0], group=1),
    *_rules("API_KEY", IbmCloudIamDetector, None, group=1),
    *_rules("API_KEY", IbmCosHmacDetector, None, group=1),
)
"""`key = value` by `RegexBasedDetector.build_assignment_regex`: the slow ones. They match a long word, too."""

RULES = (*OTHERS, *WITHIN_LONG_WORDS, *WITH_LONG_WORDS, *ASSIGNED)

_ASSIGNMENTS = tuple(
    re.compile(name + r"[\"']?\]?(?: *(?:=|:|:=|=>|::)| +) *[\"']?[a-z0-9_\-]{24}")
    for name in ("key", "pwd?", "pass(?:word)?", "token")
)
"""In a folded text, what none of `ASSIGNED` can match without; each begins with letters, so it is quick to find."""

_USERINFO = re.compile(r"://[^\s/?#:@\[\]<>\"]{0,256}:([^\s/?#@\[\]<>\"]{1,256})@(?=[\w\[])")
"""RFC 3986, 3.2.1. detect-secrets' own knows no password with a `!` or `$` in it."""

_PRIVATE_KEYS = tuple(PrivateKeyDetector.denylist)
_KEY_END = re.compile(
    r"-----END [A-Z0-9 ]{1,40}-----|---- END [A-Z0-9 ]{1,40}----|Private-MAC: ?[0-9a-f]{40,64}"
)
_KEY_BODY = re.compile(r"[A-Za-z0-9+/=]{32}")
_KEY_LINES = re.compile(r"[^\n]{0,200}(?:(?:\s|\\n|\\r)*[A-Za-z0-9+/=]{16,})+")
MAX_KEY_CHARS = 20_000
"""An RSA key of 16,384 bits in PEM has 12,900."""


def find_secrets(text: str) -> Iterator[Finding]:
    """Keys, tokens and passwords in a text."""
    folded = fold(text)
    for rule in OTHERS:
        if _may_match(rule.needs, text, folded):
            yield from _matches(rule, text)
    if words := long_words(text):
        yield from _with_long_words(text, folded, words)
    for match in _USERINFO.finditer(text):
        yield Finding("PASSWORD", *match.span(1))
    if "private" in folded or "putty" in folded:
        yield from find_private_keys(text)


def fold(text: str) -> str:
    """`text` in small letters, so that it holds a string of small letters wherever `text` matches it under
    `re.IGNORECASE`; some letters that are no ASCII match ASCII ones there."""
    if text.isascii():
        return text.lower()
    return text.replace("İ", "i").replace("ı", "i").replace("ſ", "s").lower()


def _with_long_words(text: str, folded: str, words: str) -> Iterator[Finding]:
    folded_words = fold(words)
    for rule in WITHIN_LONG_WORDS:
        if _may_match(rule.needs, words, folded_words) and rule.pattern.search(words):
            yield from _matches(rule, text)
    for rule in WITH_LONG_WORDS:
        if _may_match(rule.needs, text, folded):
            yield from _matches(rule, text)
    if any(assignment.search(folded) for assignment in _ASSIGNMENTS):
        for rule in ASSIGNED:
            yield from _matches(rule, text)


def _may_match(needs: Needs, text: str, folded: str) -> bool:
    if needs is None:
        return True
    return needs in folded if isinstance(needs, str) else needs.search(text) is not None


def _matches(rule: Rule, text: str) -> Iterator[Finding]:
    for match in rule.pattern.finditer(text):
        start, end = match.span(rule.group)
        if rule.is_one(text[start:end]):
            yield Finding(rule.kind, start, end)


def find_private_keys(text: str) -> Iterator[Finding]:
    """Whole private keys, from their first line to their last, or as far as they go. A name of one is no key."""
    for header in _PRIVATE_KEYS:
        for match in header.finditer(text):
            limit = match.end() + MAX_KEY_CHARS
            last = _KEY_END.search(text, match.end(), limit)
            if last is None:
                last = _KEY_LINES.match(text, match.end(), limit)
            if last is None or not _KEY_BODY.search(text, match.end(), last.end()):
                continue
            before = text[max(0, match.start() - 16) : match.start()]
            start = match.start() - len(before) + len(before.rstrip("- "))
            yield Finding("PRIVATE_KEY", start, last.end())
