"""Endpoints as an engine uses them: no library is loaded for another's sake, no request is larger than it may be."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from schemas.spaces import EmbeddingSpace
from tests.fakes.serving import Faults, Stage
from tests.transforms.providers.kinds import KINDS, Kind
from transforms.embedders.batching import embed_all
from transforms.providers.base import Provider, Purpose, Reply
from transforms.providers.engine import RemoteEngine
from transforms.providers.inputs import TextInput

ROOT = Path(__file__).resolve().parents[3]

OPENS_ALL_BUT_OPENAI = """
import sys
from schemas.integrations import Integration
from transforms.providers.engine import open_provider

def loaded():
    return [name for name in ("openai", "google.auth", "voyageai", "cohere", "mistralai") if name in sys.modules]

price = {"price_usd_per_million_tokens": 1, "price_as_of": "2026-11-21"}
key = {"api_key": "env:PATH"}
vertex = "https://a.example/v1/projects/p/locations/l"
for provider, model, more in (
    ("gateway", "m", {"url": "https://a.example/v1"}),
    ("gemini", "gemini-embedding-2", key),
    ("vertex", "gemini-embedding-2", {"url": vertex}),
    ("voyage", "voyage-9", key),
    ("mistral", "an-embed", key),
    ("cohere", "embed-v9", key),
):
    open_provider(Integration(name="a", provider=provider, model=model, **price, **more), 1024).close()
print(loaded())
open_provider(Integration(name="a", provider="openai", model="m", **price, **key), 8).close()
print(loaded())
"""


def test_a_client_library_is_loaded_by_the_endpoint_that_needs_it_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", OPENS_ALL_BUT_OPENAI], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:2] == ["[]", "['openai']"]


class Direct:
    """A router to one provider, which asks it once."""

    streams = 1

    def __init__(self, provider: Provider) -> None:
        self.info, self.limits = provider.info, provider.info.limits
        self._provider = provider

    def embed(
        self, texts: Sequence[str], purpose: Purpose, tokens: int, pause: Callable[[float], None]
    ) -> Reply:
        return self._provider.embed(texts, purpose)

    def check(self, purpose: Purpose, pause: Callable[[float], None]) -> None:
        return None


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.provider)
def test_short_texts_are_packed_as_full_as_the_documentation_allows_and_no_fuller(
    stage: tuple[Stage, str], kind: Kind
) -> None:
    """The fakes refuse what the documentation does not allow; a refused request would be halved, and counted."""
    stage[0].app = asked = Faults(kind.fake)
    most = {"voyage": 1000, "mistral": 256, "cohere": 96, "gemini": 100, "vertex": 250}[kind.provider]
    space = EmbeddingSpace(kind.model, "0" * 64, "exact", "remote", True, kind.dimensions, 64)
    priced = kind.integration(stage[1], price_usd_per_million_tokens=1, price_as_of="2026-11-21")
    with closing(kind.make(priced, kind.dimensions)) as provider:
        result = embed_all(
            RemoteEngine(space, Direct(provider), "document"),
            [TextInput(f"text {number}", 2) for number in range(2 * most + 1)],
        )
    assert result.failed == {}
    assert {call.error for call in result.log} == {None}
    assert sorted(call.inputs for call in result.log) == [1, most, most]
    assert len(asked.requests) == 3
