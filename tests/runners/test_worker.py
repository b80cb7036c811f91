"""What a worker of a cluster does before its steps are set up."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from apache_beam.portability.api import beam_fn_api_pb2, endpoints_pb2
from apache_beam.runners.worker.bundle_processor import DATA_INPUT_URN, BundleProcessor

from runners.worker import connect_before_setup

CREATE = "create_execution_tree"


@pytest.fixture
def descriptor() -> beam_fn_api_pb2.ProcessBundleDescriptor:
    """A bundle with an input from the runner, and a step."""
    runner = endpoints_pb2.ApiServiceDescriptor(url="127.0.0.1:4000")
    found = beam_fn_api_pb2.ProcessBundleDescriptor()
    found.transforms["step"].spec.urn = "beam:transform:pardo:v1"
    found.transforms["read"].spec.urn = DATA_INPUT_URN
    found.transforms["read"].spec.payload = beam_fn_api_pb2.RemoteGrpcPort(
        api_service_descriptor=runner
    ).SerializeToString()
    return found


@pytest.fixture
def steps() -> Iterator[pytest.MonkeyPatch]:
    """For another way to make steps; Beam's own is back afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def test_a_step_whose_setup_fails_fails_with_the_connection_open(
    descriptor: beam_fn_api_pb2.ProcessBundleDescriptor, steps: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def fail(self: object, given: beam_fn_api_pb2.ProcessBundleDescriptor) -> None:
        assert given is descriptor
        assert opened == ["127.0.0.1:4000"]
        raise RuntimeError("a key is not there")

    steps.setattr(BundleProcessor, CREATE, fail)
    connect_before_setup()
    connections = SimpleNamespace(
        create_data_channel=lambda port: opened.append(port.api_service_descriptor.url)
    )
    with pytest.raises(RuntimeError, match="a key is not there"):
        getattr(BundleProcessor, CREATE)(SimpleNamespace(data_channel_factory=connections), descriptor)
    assert opened == ["127.0.0.1:4000"]


def test_a_connection_that_cannot_be_opened_is_the_error_and_no_step_is_made(
    descriptor: beam_fn_api_pb2.ProcessBundleDescriptor, steps: pytest.MonkeyPatch
) -> None:
    def refuse(port: beam_fn_api_pb2.RemoteGrpcPort) -> None:
        raise ConnectionError("the runner is gone")

    steps.setattr(BundleProcessor, CREATE, lambda self, given: pytest.fail("a step was made for nobody"))
    connect_before_setup()
    bundle = SimpleNamespace(data_channel_factory=SimpleNamespace(create_data_channel=refuse))
    with pytest.raises(ConnectionError, match="the runner is gone"):
        getattr(BundleProcessor, CREATE)(bundle, descriptor)
