"""What providers' documentation says of their embedding models, and how an endpoint's configuration fits it. Pure."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

from schemas.errors import DimensionMismatch, UnknownName
from schemas.integrations import Integration
from transforms.providers.base import ModelInfo, RequestLimits, known_as, limits_of, price_of


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model as its provider describes it.

    Args:
        dimensions: of a vector, where a request asks for none.
        settable: dimensions that a request may ask for; empty where they cannot be chosen.
    """

    dimensions: int
    limits: RequestLimits
    settable: Container[int] = ()


def described(
    integration: Integration, dimensions: int, known: Mapping[str, KnownModel], otherwise: RequestLimits
) -> ModelInfo:
    """What an endpoint is asked for, and within which limits.

    Args:
        dimensions: of the vectors wanted.
        known: the provider's models by name.
        otherwise: limits of a model that is not among them, such as one that came out since.
    Raises:
        DimensionMismatch: the model gives no vectors of so many dimensions.
    """
    model = known.get(known_as(integration))
    if model is not None and dimensions != model.dimensions and dimensions not in model.settable:
        raise DimensionMismatch(
            f'integration "{integration.name}": {integration.model} gives vectors of {model.dimensions} dimensions, '
            f"model.dimensions says {dimensions}: change it, or take a model that has so many"
        )
    return ModelInfo(
        provider=integration.provider,
        model=integration.model,
        dimensions=dimensions,
        dimensions_settable=model is not None and bool(model.settable),
        limits=limits_of(integration, otherwise if model is None else model.limits),
        price=price_of(integration),
    )


def described_other(integration: Integration, model: str, known: Mapping[str, KnownModel]) -> ModelInfo:
    """What is known of any model of the integration's provider.

    Raises:
        UnknownName: nothing is.
    """
    found = known.get(model)
    if found is None:
        names = ", ".join(sorted(known))
        raise UnknownName(
            f'integration "{integration.name}": nothing is known of {model}, but of {names}; state its dimensions '
            "and limits in the configuration"
        )
    asked = integration.model_copy(update={"model": model, "weights": None})
    return described(asked, found.dimensions, known, found.limits)
