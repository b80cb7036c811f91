"""A router from what is configured and what the tables say."""

from __future__ import annotations

from uuid import UUID

from schemas.integrations import Integration
from schemas.spaces import EmbeddingSpace
from transforms.allowance.base import Allowance
from transforms.postgres import Store
from transforms.providers.metering import Meter
from transforms.routing.breaker import EndpointBreaker, SharedStates
from transforms.routing.chain import Chain
from transforms.routing.endpoint import Endpoint, OpenProvider
from transforms.routing.gate import Gate
from transforms.routing.requests import Requests
from transforms.routing.resolution import Resolver
from transforms.routing.router import Router
from transforms.routing.session import SharedSession


def open_router(
    store: Store,
    space: EmbeddingSpace,
    client: str,
    integration: str,
    open_provider: OpenProvider,
    allowance: Allowance,
    meter: Meter,
    run_id: UUID | None = None,
) -> Router:
    """A router over the endpoints of a client's chain. No request is made yet.

    Args:
        integration: that the configuration file names.
        open_provider: connects to an endpoint, for the dimensions of `space`.
        run_id: of the run that this is a worker of.
    Raises:
        UnknownName: there is no such integration.
        BadConfig: an endpoint of the chain does not serve the space, or its key is not where it should be.
        SinkUnavailable, DatabaseUnreachable: the tables cannot be read.
    """
    session = SharedSession(store)
    states = SharedStates(session)

    def build(found: Integration) -> Endpoint:
        gate = Gate(found.performance.max_concurrency)
        return Endpoint(found, open_provider, EndpointBreaker(states, found.name), gate)

    try:
        chain = Chain(Resolver(session, space, client, integration), build)
    except BaseException:
        session.close()
        raise
    return Router(space.space_id, chain, Requests(client, allowance, meter), session, run_id)
