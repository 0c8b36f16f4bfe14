"""Ports, pages and ready files."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter

from cstor_core import serving
from cstor_core.errors import InputError
from cstor_core.serving import (
    Page,
    bind_port,
    grpc_server,
    listen_grpc,
    port_of,
    serve_pages,
    start_metrics,
    write_ready_file,
)
from cstor_core.settings import Address

HOST = "127.0.0.1"
ANY = Address(HOST, 0)


def test_an_unset_port_moves_to_the_next_free_one() -> None:
    with bind_port(ANY, 0) as taken, bind_port(Address(HOST, None), port_of(taken)) as moved:
        assert port_of(moved) > port_of(taken)


def test_a_set_port_that_is_taken_is_an_error() -> None:
    with bind_port(ANY, 0) as taken:
        address = Address(HOST, port_of(taken))
        with pytest.raises(InputError, match=f"port {port_of(taken)} on {HOST} is taken"):
            bind_port(address, 0)


async def test_the_ports_of_grpc_follow_the_same_rules() -> None:
    with bind_port(ANY, 0) as taken:
        server = grpc_server()
        with pytest.raises(InputError, match="is taken"):
            listen_grpc(server, Address(HOST, port_of(taken)), 0)
        assert listen_grpc(server, Address(HOST, None), port_of(taken)) > port_of(taken)
        await server.stop(None)


def test_a_host_of_another_machine_is_an_error() -> None:
    with pytest.raises(InputError, match="cannot listen"):
        bind_port(Address("192.0.2.1", 7778), 0)


def test_a_ready_file_has_everything_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "run" / "ready.json"
    write_ready_file(file, {"pid": 7})
    write_ready_file(file, {"pid": 8, "grpc": "h:1"})
    assert json.loads(file.read_text()) == {"pid": 8, "grpc": "h:1"}
    assert list(file.parent.iterdir()) == [file]


@pytest.fixture
async def listener() -> AsyncIterator[socket.socket]:
    made = bind_port(ANY, 0)
    server = await serve_pages(made, {"/a": lambda: Page(b"an answer")})
    yield made
    server.close()


async def ask(listener: socket.socket, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(HOST, port_of(listener))
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


async def test_a_page_is_served_and_the_others_are_named(listener: socket.socket) -> None:
    answer = await ask(listener, b"GET /a?x=1 HTTP/1.1\r\nHost: h\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\nan answer")
    head = await ask(listener, b"HEAD /a HTTP/1.1\r\n\r\n")
    assert b"Content-Length: 9\r\n" in head
    assert head.endswith(b"\r\n\r\n")
    missing = await ask(listener, b"GET /b HTTP/1.1\r\n\r\n")
    assert missing.startswith(b"HTTP/1.1 404 ")
    assert b"/a" in missing


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST /a HTTP/1.1\r\n\r\n", b"405"),
        (b"\xff\x00 garbage\r\n\r\n", b"400"),
        (b"GET /a\r\n\r\n", b"400"),
    ],
)
async def test_other_requests_are_refused(
    listener: socket.socket, request_bytes: bytes, status: bytes
) -> None:
    assert (await ask(listener, request_bytes)).split(b" ")[1] == status


async def test_a_request_without_end_is_cut_off(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConnectionResetError):
        await ask(listener, b"GET /" + b"a" * (1 << 20))
    monkeypatch.setattr(serving, "REQUEST_S_MAX", 0.05)
    assert await ask(listener, b"GET /a HTTP/1.1\r\n") == b""
    assert b"an answer" in await ask(listener, b"GET /a HTTP/1.1\r\n\r\n")


async def test_metrics_are_served_in_prometheus_text_format() -> None:
    registry = CollectorRegistry()
    Counter("things", "Things.", registry=registry).inc(3)
    listener = bind_port(ANY, 0)
    server = await start_metrics(listener, registry)
    answer = await ask(listener, b"GET /metrics HTTP/1.1\r\n\r\n")
    assert b"things_total 3.0" in answer
    (tasks,) = re.findall(rb"^cstor_process_tasks (\S+)$", answer, re.MULTILINE)
    waiting = [asyncio.create_task(asyncio.sleep(60)) for _ in range(3)]
    answer = await ask(listener, b"GET /metrics HTTP/1.1\r\n\r\n")
    assert f"cstor_process_tasks {float(tasks) + 3}".encode() in answer
    for task in waiting:
        task.cancel()
    server.close()
