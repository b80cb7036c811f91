"""No test can reach a paid endpoint."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from itertools import product

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


def _by_connect_ex(host: str) -> None:
    with socket.socket(_family(host)) as tcp:
        tcp.settimeout(1)
        tcp.connect_ex((host, 443))


def _by_datagram(host: str) -> None:
    with socket.socket(_family(host), socket.SOCK_DGRAM) as udp:
        udp.sendto(b"", (host, 443))


def _by_message(host: str) -> None:
    with socket.socket(_family(host), socket.SOCK_DGRAM) as udp:
        udp.sendmsg([b""], [], 0, (host, 443))


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


ADDRESSES = ("192.0.2.1", "2001:db8::1")


@pytest.mark.parametrize(
    ("reach", "host"),
    [
        *product([_by_httpx, _by_asyncio, _by_socket], (*PAID, *ADDRESSES)),
        *product([_by_connect_ex, _by_datagram, _by_message], ADDRESSES),
    ],
)
def test_reaching_for_a_paid_endpoint_fails_the_test(reach: Callable[[str], None], host: str) -> None:
    with pytest.raises(Elsewhere):
        reach(host)
    assert host in network_guard.attempts
    network_guard.attempts.clear()  # or this test would fail


@pytest.mark.parametrize("ask", [socket.gethostbyname, socket.gethostbyname_ex, socket.gethostbyaddr])
def test_a_name_that_is_looked_up_alone_fails_the_test(ask: Callable[[str], object]) -> None:
    with pytest.raises(Elsewhere):
        ask(PAID[0])
    assert network_guard.attempts == [PAID[0]]
    network_guard.attempts.clear()


def test_a_program_that_a_test_starts_has_no_key() -> None:
    said = subprocess.run(
        [sys.executable, "-c", "import os; print(*os.environ)"], capture_output=True, text=True
    )
    assert not [name for name in said.stdout.split() if name.endswith(network_guard.KEYS)]


def test_no_key_of_a_provider_is_in_the_environment() -> None:
    assert not [name for name in os.environ if name.endswith(network_guard.KEYS)]


def test_keys_are_taken_out_and_the_rest_is_left() -> None:
    environment = {"OPENAI_API_KEY": "sk-1", "CO_API_KEY": "2", "PATH": "/bin", "HEADRACE_TEST_DSN": "x"}
    network_guard.without_keys(environment)
    assert sorted(environment) == ["HEADRACE_TEST_DSN", "PATH"]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", b"localhost", "0.0.0.0", "nowhere.invalid"])
def test_this_machine_and_names_that_are_nobodys_may_be_asked(host: str | bytes) -> None:
    assert is_here(host)


def test_no_code_under_test_takes_it_for_a_failure_it_can_handle() -> None:
    assert not issubclass(Elsewhere, Exception)


def test_from_its_installation_on_keys_are_gone() -> None:
    code = "import os; from tests import network_guard; network_guard.install(); print(os.environ.get('X_API_KEY'))"
    said = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "X_API_KEY": "sk-1"}, capture_output=True, text=True
    )
    assert said.stdout == "None\n"
