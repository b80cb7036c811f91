"""What becomes of texts that nobody can judge is decided, never assumed; and texts that leave are redacted."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.config import Model, Privacy, load_config
from schemas.errors import BadConfig
from schemas.moderation import Moderation

WHO = '[moderation]\nintegration = "main"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (WHO, "moderation.on_failure: Field required"),
        (f'{WHO}on_failure = "retry"', "moderation.on_failure: Input should be 'refuse' or"),
        ('[moderation]\non_failure = "pass"', "moderation.integration: Field required"),
        (f'{WHO}on_failure = "pass"\nkey = "x"', "options here are integration, model, on_failure"),
    ],
)
def test_a_table_that_leaves_something_open_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "headrace.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadConfig) as raised:
        load_config(path)
    assert said in str(raised.value)


@pytest.mark.parametrize(("policy", "redacts"), [("off", False), ("external_only", True), ("always", True)])
def test_what_is_shown_to_a_judge_leaves_even_if_the_model_is_local(policy: str, redacts: bool) -> None:
    privacy = Privacy.model_validate({"redact": policy})
    moderation = Moderation(integration="main", on_failure="refuse")
    assert privacy.redacts("acme", Model(), moderation) is redacts
    assert privacy.redacts("acme", Model(), None) is (policy == "always")
