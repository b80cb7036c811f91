"""The providers asked by plain HTTP: how each is configured, and its fake."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from schemas.integrations import Integration
from tests.fakes import other_providers as fakes
from tests.fakes.serving import App
from transforms.providers.base import Provider
from transforms.providers.cohere import Cohere
from transforms.providers.gemini import Gemini
from transforms.providers.mistral import Mistral
from transforms.providers.vertex import Vertex
from transforms.providers.voyage import Voyage


@dataclass(frozen=True)
class Kind:
    """A provider, a model of it that takes several texts at once, and dimensions that this may be asked for."""

    make: Callable[[Integration, int], Provider]
    fake: App
    provider: str
    model: str
    dimensions: int
    path: str = ""

    def integration(self, url: str, **changes: Any) -> Integration:
        return Integration.model_validate(
            {
                "name": "main",
                "provider": self.provider,
                "model": self.model,
                "url": url + self.path,
                "api_key": "env:FAKE_KEY",
                **changes,
            }
        )


VOYAGE = Kind(Voyage, fakes.fake_voyage, "voyage", "voyage-4", 512, "/v1")
MISTRAL = Kind(Mistral, fakes.fake_mistral, "mistral", "codestral-embed", 768, "/v1")
COHERE = Kind(Cohere, fakes.fake_cohere, "cohere", "embed-v4.0", 256)
GEMINI = Kind(Gemini, fakes.fake_gemini, "gemini", "gemini-embedding-001", 768, "/v1beta")
VERTEX = Kind(Vertex, fakes.fake_vertex, "vertex", "text-embedding-005", 256, fakes.VERTEX_PATH)
KINDS = (VOYAGE, MISTRAL, COHERE, GEMINI, VERTEX)
