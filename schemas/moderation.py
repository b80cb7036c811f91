"""The table of the configuration file that says whether, and by whom, texts are judged before they are embedded."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from schemas.integrations import IntegrationName
from schemas.sections import Section


class Moderation(Section):
    """Texts are shown to a provider's moderation endpoint before they are embedded; what it flags is not stored.

    Args:
        integration: whose endpoint: one of provider `openai`, `mistral` or `gateway`. Its address, key and
            performance are taken, its model is not.
        model: that judges.
        on_failure: what becomes of a document that nobody could judge: `refuse` makes it a dead letter that can be
            tried again, `pass` embeds it and counts it. There is no default: it is a decision.
    """

    integration: IntegrationName
    model: str = Field(default="omni-moderation-latest", min_length=1, max_length=200)
    on_failure: Literal["refuse", "pass"]
