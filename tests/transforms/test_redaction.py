"""Secrets and personal data are found, what only looks like them is not, and nothing found is left."""

from __future__ import annotations

import re
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.config import Chunking, Model
from schemas.documents import Document, Format, Kind, SourceRecord
from transforms.chunk import chunk_document
from transforms.detectors import commands, numbers, secrets
from transforms.detectors.base import KINDS, PLACEHOLDERS, Finding
from transforms.detectors.numbers import is_card
from transforms.detectors.prefilters import LONG_WORD, has_long_number, long_words
from transforms.detectors.secrets import RULES, WITHIN_LONG_WORDS, Rule, find_secrets, fold
from transforms.embedders.loading import load_tokenizer
from transforms.embedders.word_memo import WordMemo
from transforms.redaction import DETECTORS, found_in_any, merged, redact_text, redact_value, strings_in

LABELLED = Path(__file__).resolve().parent.parent / "data" / "redaction.txt"
MARK = re.compile(r"⟦([A-Z_]+)\|(.*?)⟧", re.DOTALL)


class Item(NamedTuple):
    """A text and what is to be found in it."""

    text: str
    wanted: tuple[Finding, ...]

    @property
    def values(self) -> list[str]:
        return [self.text[one.start : one.end] for one in self.wanted]


def read_labelled() -> list[Item]:
    return [
        _item(line.replace("¦", "").replace("\\n", "\n"))
        for line in LABELLED.read_text(encoding="utf-8").splitlines()
        if not line.startswith("# ")
    ]


def _item(marked: str) -> Item:
    text, wanted, reached = "", [], 0
    for match in MARK.finditer(marked):
        text += marked[reached : match.start()]
        wanted.append(Finding(match[1], len(text), len(text) + len(match[2])))
        text += match[2]
        reached = match.end()
    return Item(text + marked[reached:], tuple(wanted))


ITEMS = read_labelled()
POSITIVES = [item for item in ITEMS if item.wanted]
NEGATIVES = [item for item in ITEMS if not item.wanted]


def found_in(text: str) -> list[Finding]:
    return merged(finding for detect in DETECTORS for finding in detect(text))


def test_the_labelled_set_has_every_kind_and_as_many_hard_negatives() -> None:
    kinds = Counter(one.kind for item in POSITIVES for one in item.wanted)
    assert set(kinds) == set(KINDS)
    assert len(POSITIVES) >= 150
    assert len(NEGATIVES) >= 150


@pytest.mark.parametrize("kind", KINDS)
def test_recall_and_precision_of_each_kind_stay_above_their_floors(kind: str) -> None:
    wanted = {(item.text, one) for item in ITEMS for one in item.wanted if one.kind == kind}
    found = {(item.text, one) for item in ITEMS for one in found_in(item.text) if one.kind == kind}
    right = len(wanted & found)
    missed, wrong = wanted - found, found - wanted
    assert right / len(wanted) >= 0.95, missed
    assert right / len(found) >= 0.95, wrong


def test_of_hard_negatives_at_most_one_in_a_hundred_is_taken() -> None:
    taken = [item.text for item in NEGATIVES if found_in(item.text)]
    assert len(taken) <= len(NEGATIVES) / 100, taken


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("mysql -psecret weir", "mysql -p[PASSWORD] weir"),
        ("weir --password secret --verbose", "weir --password [PASSWORD] --verbose"),
        ("curl -u user:secret http://weir/", "curl -u user:[PASSWORD] http://weir/"),
        ("PGPASSWORD=secret psql weir", "PGPASSWORD=[PASSWORD] psql weir"),
    ],
)
def test_a_password_in_a_command_may_be_any_word(text: str, redacted: str) -> None:
    assert redact_text(text) == (redacted, Counter({"PASSWORD": 1}))


PIECES = st.sampled_from(
    [item.text for item in ITEMS]
    + [value for item in POSITIVES for value in item.values]
    + sorted(PLACEHOLDERS)
    + [
        "@",
        "://",
        ":",
        ".",
        "-",
        " ",
        "\n",
        "=",
        '"',
        "'",
        "[",
        "]",
        "+",
        "(",
        "key",
        "token",
        "0",
        "4",
        "aws",
        "password: ",
        "pwd=",
        "mysql -p",
        "curl -u ada:",
        " --password ",
        " -x",
        "ſ",
        "K",
    ]
)
COMPOSED = st.lists(PIECES, max_size=8).map("".join) | st.lists(PIECES, max_size=8).map(" ".join)


@settings(deadline=None)
@given(COMPOSED)
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    once, _ = redact_text(text)
    assert redact_text(once) == (once, Counter())


@settings(deadline=None)
@given(st.lists(st.sampled_from(POSITIVES), min_size=1, max_size=6))
def test_no_value_that_is_found_alone_is_left_among_others(items: list[Item]) -> None:
    text, counts = redact_text("\n\n".join(item.text for item in items))
    for item in items:
        for one, value in zip(item.wanted, item.values, strict=True):
            if one in found_in(item.text):
                assert value not in text
    assert counts.total() >= 1


@settings(deadline=None)
@given(COMPOSED)
def test_looking_first_for_what_a_rule_cannot_do_without_loses_nothing(text: str) -> None:
    without = {finding for rule in RULES for finding in secrets._matches(rule, text)}
    assert without <= set(find_secrets(text))


@settings(deadline=None)
@given(st.text(alphabet="aZ09_-\\ .:\né٣", max_size=200))
def test_long_words_are_all_there_are_and_as_they_stand(text: str) -> None:
    words = re.findall(r"[a-zA-Z0-9_\-\\\x80-\U0010ffff]+", text)
    assert long_words(text).split() == [one for one in words if len(one.encode()) >= LONG_WORD]


def named(rule: Rule) -> str:
    return rule.pattern.pattern[:24]


@pytest.mark.parametrize("rule", WITHIN_LONG_WORDS, ids=named)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_these_expressions_match_the_same_within_a_long_word(rule: Rule, data: st.DataObject) -> None:
    text = data.draw(st.from_regex(rule.pattern))
    assert rule.pattern.search(text)
    assert rule.pattern.search(long_words(text))


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule not in secrets.OTHERS], ids=named)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_whatever_these_expressions_match_has_a_long_word(rule: Rule, data: st.DataObject) -> None:
    assert long_words(data.draw(st.from_regex(rule.pattern)))


@settings(deadline=None)
@given(st.from_regex(numbers._REGION))
def test_wherever_numbers_of_people_are_looked_for_there_are_digits_enough(text: str) -> None:
    assert has_long_number(text)


@pytest.mark.parametrize("program", commands._PROGRAMS, ids=lambda program: program.name)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_every_command_with_a_password_has_an_option(program: commands._Program, data: st.DataObject) -> None:
    assert commands._OPTION.search(data.draw(st.from_regex(program.option)))


@pytest.mark.parametrize(
    ("needs", "pattern"), commands._ELSEWHERE, ids=lambda one: getattr(one, "pattern", one)[:24]
)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_whatever_is_a_password_of_any_program_has_what_is_looked_for_first(
    needs: str, pattern: re.Pattern[str], data: st.DataObject
) -> None:
    match = data.draw(st.from_regex(pattern))
    assert needs in match
    assert any(part in match for part in commands._IN_ALL_ELSEWHERE)


NEIGHBOURS = st.sampled_from(
    [
        "version ",
        "ip: ",
        "rev",
        "host=",
        "\\",
        "BEGIN",
        "1.2",
        "44",
        "a@b",
        "--password x",
        " -p",
        "//u:",
        "eyJ",
    ]
)


@settings(deadline=None, max_examples=300)
@given(st.lists(COMPOSED | NEIGHBOURS, max_size=6))
def test_what_is_found_in_one_text_is_found_among_others(texts: list[str]) -> None:
    if any(found_in(text) for text in texts):
        assert found_in_any(texts)


@pytest.mark.parametrize(
    "before", ["version ", "v", "rev", "a-", "x.", "\\", "BEGIN OPENSSH ", "--password x "]
)
def test_a_text_between_others_is_not_taken_for_a_part_of_them(before: str) -> None:
    alone = {text for item in POSITIVES for text in (item.text, *item.values) if found_in(text)}
    alone.add("AKC" + "a1B2" * 8)  # Artifactory's begin after a space, or where a text does
    assert len(alone) > len(POSITIVES)
    assert all(found_in_any([before, text, ".5"]) for text in alone)


@pytest.mark.parametrize("name", ["password", "db_pwd", "user_pass", "PASSWORD_CONFIRM", "db.password"])
def test_a_member_by_the_name_of_a_password_is_one_though_it_is_any_word(name: str) -> None:
    value, counts = redact_value([{"user": "ada", name: "hunter"}])
    assert value == [{"user": "ada", name: "[PASSWORD]"}]
    assert counts == {"PASSWORD": 1}
    assert redact_value(value) == (value, Counter())


@pytest.mark.parametrize(
    ("name", "member"),
    [
        ("passwordPolicy", "strict"),
        ("passed", "hunter"),
        ("password", ""),
        ("password", "string"),
        ("password", "${DB_PASSWORD}"),
        ("password", None),
        ("user", "password"),
    ],
)
def test_a_member_that_only_speaks_of_passwords_stays(name: str, member: str | None) -> None:
    value = {name: member}
    assert redact_value(value) == (value, Counter())


def test_strings_of_a_value_are_those_of_its_members_names_and_lists() -> None:
    value = {"a": ["b", {"c": "d"}, 1, None], "e": ("f", True)}
    assert sorted(strings_in(value)) == ["a", "b", "c", "d", "e", "f"]


def test_folding_covers_all_that_python_takes_for_the_same_letter() -> None:
    letters = "".join(map(chr, range(ord("a"), ord("z") + 1)))
    every = "".join(chr(code) for code in range(128, sys.maxunicode + 1) if not 0xD800 <= code <= 0xDFFF)
    for alike in re.findall(f"[{letters}]", every, re.IGNORECASE):
        letter = next(one for one in letters if re.fullmatch(one, alike, re.IGNORECASE))
        assert fold(alike) == letter


def test_a_text_without_anything_is_the_same_object() -> None:
    text = NEGATIVES[0].text
    assert redact_text(text)[0] is text


def test_findings_that_overlap_are_replaced_as_one_by_the_graver_kind() -> None:
    together = merged([Finding("EMAIL", 3, 9), Finding("PASSWORD", 0, 5), Finding("IP", 12, 14)])
    assert together == [Finding("PASSWORD", 0, 9), Finding("IP", 12, 14)]


def test_strings_in_a_value_and_names_of_members_are_redacted_and_numbers_stay() -> None:
    value = {"ada@example.com": [1, None, ("mail ada@example.com", {"deep": "call +1 415 555 2671"})]}
    for _ in range(2):  # names are remembered
        assert redact_value(value) == (
            {"[EMAIL]": [1, None, ["mail [EMAIL]", {"deep": "call [PHONE]"}]]},
            Counter({"EMAIL": 2, "PHONE": 1}),
        )


@settings(deadline=None)
@given(st.integers(0, 10**18))
def test_a_card_number_with_any_one_digit_changed_is_none(seed: int) -> None:
    number = list("4539578763621486")
    place, digit = seed % 16, str(seed // 16 % 10)
    changed = [*number[:place], digit, *number[place + 1 :]]
    assert is_card("".join(changed)) == (changed == number)


@pytest.mark.parametrize(
    "piece",
    [
        "@",
        "a@a.",
        "://a:",
        "1",
        "1-",
        "1 ",
        "1.",
        ":a",
        "::",
        "-----BEGIN PRIVATE KEY-----",
        "+1 ",
        "key: ",
        "aws key ",
        "eyJ.",
        "1.1.1.",
        "password:",
        "pwd=a1",
        "--password a",
        "mysql -pa ",
        "curl -u a:",
        "docker login ",
        "-storepass a ",
        "export A_",
        "--user a --password b -c ",
    ],
)
def test_time_grows_no_faster_than_the_text(piece: str) -> None:
    """Hostile texts of a quarter of a megabyte take seconds at most where a quadratic detector would take hours."""
    text = piece * (250_000 // len(piece))
    assert isinstance(redact_text(text)[0], str)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.sampled_from([*sorted(PLACEHOLDERS), "gate", "x=[EMAIL];", "a, b", "key:"]), max_size=150),
    st.integers(16, 64),
)
def test_placeholders_survive_chunking(pieces: list[str], max_tokens: int) -> None:
    text = " ".join(pieces)
    wanted = [match.span() for match in re.finditer(r"\[[A-Z_]+\]", text)]
    chunks = chunk_document(_document(text), WORDS, Chunking(), max_tokens).chunks
    for start, end in wanted:
        assert any(chunk.start_char <= start and end <= chunk.end_char for chunk in chunks)
    assert all(len(chunk.model_input) <= max_tokens for chunk in chunks)


WORDS = WordMemo(load_tokenizer(Model()))


def _document(text: str) -> Document:
    record = SourceRecord(
        "acme", "s", Format.JIRA_FLAT, Kind.ISSUE, "1", b"", datetime(2026, 1, 1, tzinfo=UTC)
    )
    return Document(record, "MILL-1", "MILL", "Gates", text)
