"""Identities are the same on any worker, and different for different things."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from schemas.ids import digest, document_id, fingerprint, payload_digest, settings_digest

words = st.text(max_size=12)


def test_a_document_id_is_the_same_in_every_run() -> None:
    assert str(document_id("acme", "jira", "issue", "10001")) == "cc2dc79b-8297-86e2-88f8-f2071e321392"


def test_a_document_id_is_a_version_8_uuid() -> None:
    identity = document_id("acme", "jira", "issue", "10001")
    assert (identity.version, identity.variant) == (8, "specified in RFC 4122")


@given(st.lists(st.binary(max_size=6), max_size=4), st.lists(st.binary(max_size=6), max_size=4))
def test_parts_cannot_be_shifted_into_one_another(left: list[bytes], right: list[bytes]) -> None:
    assert (digest(*left) == digest(*right)) == (left == right)


@given(st.tuples(words, words, words, words), st.tuples(words, words, words, words))
def test_ids_differ_when_any_part_differs(left: tuple[str, ...], right: tuple[str, ...]) -> None:
    assert (document_id(*left) == document_id(*right)) == (left == right)


@given(st.dictionaries(words, st.integers(0, 9), max_size=5))
def test_settings_digest_ignores_the_order_of_keys(settings: dict[str, int]) -> None:
    assert settings_digest(settings) == settings_digest(dict(reversed(settings.items())))


def test_a_change_of_payload_or_processing_changes_the_fingerprint() -> None:
    payload, processing = payload_digest("jira_issue", b"{}"), settings_digest({"chunker": 1})
    changed = {
        fingerprint(payload, processing),
        fingerprint(payload_digest("jira_issue", b"{ }"), processing),
        fingerprint(payload, settings_digest({"chunker": 2})),
    }
    assert len(changed) == 3
