"""A caller that gives its stream up in the very moment in which the connection is made."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import uvloop

from cstor_core.clock import SystemClock
from cstor_core.dialling import TcpConnector
from cstor_core.errors import CstorError
from cstor_core.frames import Buffer
from cstor_core.streams import endpoint
from cstor_core.streams.client import ClientStream

HOST = "127.0.0.1"
TICK_S = 0.02


def ignore_message(_message: Buffer) -> None:
    """Nothing comes."""


def ignore_error(_error: CstorError) -> None:
    """Whoever closes a stream is not told of its end."""


class ClosedWhenMade(TcpConnector):
    """Has the stream closed just before, or just after, its connection is made."""

    def __init__(self, *, before: bool) -> None:
        self.stream: ClientStream | None = None
        self._before = before

    async def connect(self, address: str, protocol: asyncio.BaseProtocol) -> None:
        made = protocol.connection_made

        def connection_made(transport: asyncio.BaseTransport) -> None:
            assert self.stream is not None
            if self._before:
                self.stream.close()
            made(transport)
            self.stream.close()

        protocol.connection_made = connection_made  # type: ignore[method-assign]
        await super().connect(address, protocol)


async def give_up(*, before: bool) -> tuple[list[dict[str, object]], endpoint.Endpoint]:
    """What the loop had to complain of until long after, and the stream's end of the connection."""
    complaints: list[dict[str, object]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: complaints.append(context))
    server = await asyncio.start_server(lambda _reader, _writer: None, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    connector = ClosedWhenMade(before=before)
    connector.stream = ClientStream(
        connector, SystemClock(), f"{HOST}:{port}", "/s/Method", ignore_message, ignore_error
    )
    await asyncio.sleep(endpoint.SILENT_TICKS_MAX * 4 * TICK_S)
    server.close()
    return complaints, connector.stream._endpoint


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("new_loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_nothing_is_left_of_a_stream_that_is_given_up_as_it_is_made(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
    before: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(endpoint, "TICK_S", TICK_S)
    with asyncio.Runner(loop_factory=new_loop) as runner:
        complaints, ended = runner.run(give_up(before=before))
    assert [str(said.get("exception")) for said in complaints] == []
    assert ended.connection.error is not None
    assert ended._timer is None
