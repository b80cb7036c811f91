"""One Python worker of a cluster, as `runners/worker_pool.py` starts it: asks for its options, then works."""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any

import grpc
from apache_beam.portability.api import (
    beam_fn_api_pb2,
    beam_provision_api_pb2,
    beam_provision_api_pb2_grpc,
    endpoints_pb2,
)
from google.protobuf import json_format, text_format

PROVISION_TIMEOUT_S = 60.0


def end_with_parent() -> None:
    """End this process as soon as its standard input ends, which its parent holds open."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def settings(worker_id: str, control: str, logging: str, provision: str) -> dict[str, str]:
    """What Beam's worker reads from its environment.

    Args:
        provision: address that knows the job's pipeline options.
    Raises:
        grpc.RpcError: nobody answers there.
    """
    with grpc.insecure_channel(provision) as channel:
        stub = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
        info = stub.GetProvisionInfo(
            beam_provision_api_pb2.GetProvisionInfoRequest(),
            metadata=[("worker_id", worker_id)],
            timeout=PROVISION_TIMEOUT_S,
            wait_for_ready=True,
        ).info
    return {
        "WORKER_ID": worker_id,
        "PIPELINE_OPTIONS": json_format.MessageToJson(info.pipeline_options),
        "RUNNER_CAPABILITIES": " ".join(info.runner_capabilities),
        "CONTROL_API_SERVICE_DESCRIPTOR": _address(info.control_endpoint.url or control),
        "LOGGING_API_SERVICE_DESCRIPTOR": _address(info.logging_endpoint.url or logging),
    }


def _address(url: str) -> str:
    return str(text_format.MessageToString(endpoints_pb2.ApiServiceDescriptor(url=url)))


def connect_before_setup() -> None:
    """Open a bundle's data connection before its steps are set up.

    Beam does so after. A runner in Java waits three minutes for the connection before it looks at an answer, and so
    for every error of a step's setup, such as a key that is not there, at each of its attempts.
    """
    from apache_beam.runners.worker import bundle_processor

    create = bundle_processor.BundleProcessor.create_execution_tree

    def connected(self: Any, descriptor: beam_fn_api_pb2.ProcessBundleDescriptor) -> Any:
        for transform in descriptor.transforms.values():
            if transform.spec.urn == bundle_processor.DATA_INPUT_URN:
                port = beam_fn_api_pb2.RemoteGrpcPort.FromString(transform.spec.payload)
                self.data_channel_factory.create_data_channel(port)
        return create(self, descriptor)

    bundle_processor.BundleProcessor.create_execution_tree = connected


def main(arguments: Sequence[str]) -> None:
    """Work until the runner closes the connection."""
    parser = argparse.ArgumentParser(prog="python -m runners.worker", description=__doc__)
    for name in ("id", "control", "logging", "provision"):
        parser.add_argument(f"--{name}", required=True)
    given = parser.parse_args(arguments)
    end_with_parent()
    os.environ.update(settings(given.id, given.control, given.logging, given.provision))
    connect_before_setup()
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main([])


if __name__ == "__main__":
    main(sys.argv[1:])
