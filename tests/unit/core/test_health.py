"""What a probe asks of a daemon, and what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cstor_core.errors import UnavailableError
from cstor_core.health import check_health, reached_at
from cstor_core.serving import Health, grpc_server, listen_grpc
from cstor_core.settings import Address, parse_address

ANSWER_S_MAX = 10.0
NOBODY = "127.0.0.1:1"


@asynccontextmanager
async def daemon(*, serving: bool) -> AsyncIterator[str]:
    """The health service of a daemon, and where it is."""
    server = grpc_server()
    health = Health(server, ())
    port = listen_grpc(server, Address("127.0.0.1", 0), 0)
    await server.start()
    await health.set(serving)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def ask(address: str, *, ready: bool) -> str:
    return await asyncio.to_thread(check_health, address, None, ANSWER_S_MAX, ready=ready)


async def test_a_daemon_that_serves_is_ready_and_alive() -> None:
    async with daemon(serving=True) as address:
        assert await ask(address, ready=True) == "ready"
        assert await ask(address, ready=False) == "ready"


async def test_a_daemon_that_waits_is_alive_and_not_ready() -> None:
    async with daemon(serving=False) as address:
        assert await ask(address, ready=False) == "alive"
        with pytest.raises(UnavailableError, match=f"{address} is alive, and does not serve"):
            await ask(address, ready=True)


@pytest.mark.parametrize("ready", [True, False])
async def test_nobody_there_is_neither(ready: bool) -> None:
    with pytest.raises(UnavailableError, match=f"{NOBODY} does not answer"):
        await ask(NOBODY, ready=ready)


@pytest.mark.parametrize(
    ("listening", "reached"),
    [
        ("127.0.0.1", "127.0.0.1:7777"),
        ("0.0.0.0:7790", "127.0.0.1:7790"),
        (":7790", "127.0.0.1:7790"),
        ("[::]:7790", "[::1]:7790"),
        ("[fd00::7]", "[fd00::7]:7777"),
        ("node-a:7790", "node-a:7790"),
    ],
)
def test_a_daemon_is_asked_where_it_listens(listening: str, reached: str) -> None:
    assert reached_at(parse_address(listening), 7777) == reached
