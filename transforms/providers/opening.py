"""From an integration to its provider: no client library is imported but the one asked for."""

from __future__ import annotations

from schemas.errors import MissingTool
from schemas.integrations import Integration
from transforms.providers.base import Provider, known_price
from transforms.providers.exchange import key_of


def open_provider(integration: Integration, dimensions: int) -> Provider:
    """Connect to an endpoint. No request is made.

    Args:
        dimensions: of the vectors wanted.
    Raises:
        BadConfig: nobody has said what it costs, or its key is not where it should be.
        MissingTool: the provider's client library is not installed.
        DimensionMismatch: the model has no vectors of so many dimensions.
        WrongAddress: its URL is none.
    """
    known_price(integration)
    if integration.api_key is not None:
        key_of(integration)  # before anything is read for an endpoint that cannot be asked
    match integration.provider:
        case "openai" | "azure":
            try:
                from transforms.providers.openai import OpenAI
            except ImportError:
                raise MissingTool(
                    f'integration "{integration.name}" needs the openai package: pip install "headrace[openai]"'
                ) from None
            return OpenAI(integration, dimensions)
        case "gateway":
            from transforms.providers.gateway import Gateway

            return Gateway(integration, dimensions)
        case "gemini":
            from transforms.providers.gemini import Gemini

            return Gemini(integration, dimensions)
        case "vertex":
            from transforms.providers.vertex import Vertex

            return Vertex(integration, dimensions)
        case "voyage":
            from transforms.providers.voyage import Voyage

            return Voyage(integration, dimensions)
        case "mistral":
            from transforms.providers.mistral import Mistral

            return Mistral(integration, dimensions)
        case "cohere":
            from transforms.providers.cohere import Cohere

            return Cohere(integration, dimensions)
