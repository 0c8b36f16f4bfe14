"""Addresses and ports as the command reads and chooses them."""

from __future__ import annotations

import socket

import pytest

from cstor_cli.addresses import Address, is_free, next_free, parse_address
from cstor_core.errors import InputError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:3260", Address("127.0.0.1", 3260)),
        ("node-1.example:1", Address("node-1.example", 1)),
        ("[::1]:65535", Address("::1", 65535)),
    ],
)
def test_an_address_is_read_and_written_back(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text", ["", "3260", "host", "host:", ":3260", "host:0", "host:65536", "host:x", "::1:3260"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_address(text)


def test_a_client_on_this_machine_reaches_a_wildcard_by_loopback() -> None:
    assert Address("0.0.0.0", 3260).reachable() == Address("127.0.0.1", 3260)
    assert Address("192.0.2.1", 3260).reachable() == Address("192.0.2.1", 3260)


def test_the_next_free_port_passes_over_taken_and_promised_ones() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = Address(*listener.getsockname())
        assert not is_free(taken)
        promised = taken.port + 1
        found = next_free(taken, {promised})
    assert found.port > promised
    assert is_free(found)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(InputError, match="not an address of this machine"):
        is_free(Address("192.0.2.1", 3260))
