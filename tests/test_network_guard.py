"""No test can reach a paid endpoint."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

import httpx
import pytest

from tests import network_guard
from tests.network_guard import Elsewhere, is_here

PAID = (
    "api.openai.com",
    "acme.openai.azure.com",
    "generativelanguage.googleapis.com",
    "api.voyageai.com",
    "api.mistral.ai",
    "api.cohere.com",
)


def _by_httpx(host: str) -> None:
    httpx.get(f"https://{f'[{host}]' if ':' in host else host}/v1/models", timeout=1)


def _by_asyncio(host: str) -> None:
    asyncio.run(asyncio.wait_for(asyncio.open_connection(host, 443), 1))


def _by_socket(host: str) -> None:
    with socket.create_connection((host, 443), timeout=1):
        pass


@pytest.mark.parametrize("reach", [_by_httpx, _by_asyncio, _by_socket])
@pytest.mark.parametrize("host", [*PAID, "192.0.2.1", "2001:db8::1"])
def test_reaching_for_a_paid_endpoint_fails_the_test(reach: Callable[[str], None], host: str) -> None:
    with pytest.raises(Elsewhere):
        reach(host)
    assert host in network_guard.attempts
    network_guard.attempts.clear()  # or this test would fail


def test_no_key_of_a_provider_is_in_the_environment() -> None:
    assert not [name for name in os.environ if name.endswith(network_guard.KEYS)]


def test_keys_are_taken_out_and_the_rest_is_left() -> None:
    environment = {"OPENAI_API_KEY": "sk-1", "CO_API_KEY": "2", "PATH": "/bin", "HEADRACE_TEST_DSN": "x"}
    network_guard.without_keys(environment)
    assert sorted(environment) == ["HEADRACE_TEST_DSN", "PATH"]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", b"localhost", "0.0.0.0", "nowhere.invalid"])
def test_this_machine_and_names_that_are_nobodys_may_be_asked(host: str | bytes) -> None:
    assert is_here(host)
