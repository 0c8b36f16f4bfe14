"""One path to a volume: a session with a target, many commands at a time, and pings.

Every PDU of the target is judged by `RawInitiator`.  A path that does not answer, whose connection
ends, or whose target says that it does not serve now (NOT READY) is lost, with all commands on it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from tests.rfc7143.initiator import RawInitiator
from tests.rfc7143.wire import RESERVED, TEST_UNIT_READY, Op, Pdu

GOOD, CHECK_CONDITION, BUSY, TASK_SET_FULL = 0x00, 0x02, 0x08, 0x28
NOT_READY, UNIT_ATTENTION = 2, 6
TRANSITION = (NOT_READY, 0x04, 0x0A)
REPORT_TARGET_PORT_GROUPS = bytes.fromhex("a30a 00000000 00000010 0000")
SET_TARGET_PORT_GROUPS = bytes.fromhex("a40a 00000000 00000008 0000")
GROUPS_BYTES, STATE, GROUP = 16, 4, slice(6, 8)
"""Of what a target with one group of ports answers, and where its state and its number are."""
STATE_MASK, STANDBY = 0x0F, 0x02
PING_S, SILENCE_S = 2.0, 5.0
"""A ping is sent after so long; a target that says nothing at all for so long is gone."""
CONNECT_S = 3.0
AGAIN_S = 0.1
COMMAND_S = 30.0
"""As Linux' SCSI layer: then a command is given up, and with it its path."""


class PathLostError(Exception):
    """The commands of a path have no answer: they may have been carried out, or not."""


class TryAgainError(Exception):
    """The command was not carried out now (BUSY, or something else had to be told first)."""


class RefusedError(Exception):
    """The command failed for good."""


@dataclass(slots=True)
class _Command:
    """One that is under way."""

    answer: asyncio.Future[bytes]
    data: bytearray


class Path:
    """A session, from its login to its loss; `open_path` makes one."""

    def __init__(
        self, initiator: RawInitiator, portal: str, problem: Callable[[str], None]
    ) -> None:
        self.portal = portal
        self.lost = ""
        """Why it is; empty while it is not."""
        self._initiator = initiator
        self._problem = problem
        self._commands: dict[int, _Command] = {}
        self._loop = asyncio.get_running_loop()
        self._heard_s = self._loop.time()
        self._tasks = [asyncio.create_task(self._receive()), asyncio.create_task(self._watch())]

    async def ask(self, cdb: bytes, data: bytes = b"", reads: int | None = None) -> bytes:
        """Carry out a command; what it read.

        Raises PathLostError, TryAgainError or RefusedError.
        """
        if self.lost:
            raise PathLostError(self.lost)
        answer: asyncio.Future[bytes] = self._loop.create_future()
        tag = self._initiator.command(cdb, data, reads=reads)
        self._commands[tag] = _Command(answer, bytearray(reads or 0))
        try:
            return await asyncio.wait_for(answer, COMMAND_S)
        except TimeoutError:
            self.close(f"no answer to a command after {COMMAND_S} s")
            raise PathLostError(self.lost) from None
        finally:
            self._commands.pop(tag, None)

    def close(self, why: str) -> None:
        """It is lost; nothing happens if it was before."""
        if self.lost:
            return
        self.lost = why
        self._initiator.hang_up()
        for task in self._tasks:
            task.cancel()
        for command in self._commands.values():
            if not command.answer.done():
                command.answer.set_exception(PathLostError(why))

    async def _receive(self) -> None:
        try:
            while True:
                pdu = await self._initiator.receive()
                self._heard_s = self._loop.time()
                self._take(pdu)
        except (OSError, EOFError) as error:
            self.close(f"the connection has ended: {error!r}")
        except AssertionError as error:
            self._problem(f"a PDU of {self.portal} is wrong: {error}")
            self.close("the target has sent what it must not")

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(PING_S)
            if self._loop.time() - self._heard_s > SILENCE_S:
                self.close(f"silent for {SILENCE_S} s")
            self._initiator.send(Op.NOP_OUT, immediate=True)

    def _take(self, pdu: Pdu) -> None:
        """One PDU of the target."""
        if pdu.op == Op.NOP_IN:
            if pdu.ttt != RESERVED:
                self._initiator.send(
                    Op.NOP_OUT, immediate=True, itt=RESERVED, word_20=pdu.ttt, lun=pdu.lun
                )
        elif pdu.op == Op.ASYNC:
            self.close(f"the target asks for the end of the session (event {pdu.header[36]})")
        elif pdu.op in {Op.RESPONSE, Op.DATA_IN}:
            # One without a command is the answer to what was given up just now.
            if (command := self._commands.get(pdu.itt)) is not None:
                self._answer(command, pdu)
        else:
            raise AssertionError(f"nobody asked for {pdu.header.hex()}")

    def _answer(self, command: _Command, pdu: Pdu) -> None:
        if pdu.op == Op.DATA_IN:
            command.data[pdu.offset : pdu.offset + len(pdu.data)] = pdu.data
            if not pdu.flags & 1:
                return
        if command.answer.done():
            return
        if pdu.status == GOOD:
            command.answer.set_result(bytes(command.data))
        elif pdu.status in {BUSY, TASK_SET_FULL}:
            command.answer.set_exception(TryAgainError(f"status {pdu.status:#x}"))
        elif pdu.status != CHECK_CONDITION:
            command.answer.set_exception(RefusedError(f"status {pdu.status:#x}"))
        elif pdu.sense[0] == UNIT_ATTENTION:
            command.answer.set_exception(TryAgainError(f"unit attention {pdu.sense}"))
        elif pdu.sense == TRANSITION:
            command.answer.set_exception(TryAgainError("the target is about to serve"))
        elif pdu.sense[0] == NOT_READY:
            self.close(f"not ready: {pdu.sense}")
        else:
            command.answer.set_exception(RefusedError(f"sense {pdu.sense}"))


async def _ask_to_serve(path: Path) -> None:
    """As a host does that has no other path: the target's groups of ports are to be active."""
    told = await path.ask(REPORT_TARGET_PORT_GROUPS, reads=GROUPS_BYTES)
    if told[STATE] & STATE_MASK == STANDBY:
        wanted = bytes(6) + told[GROUP]
        await path.ask(SET_TARGET_PORT_GROUPS, wanted)


async def open_path(
    portal: tuple[str, int],
    target: str,
    name: str,
    problem: Callable[[str], None],
    *,
    insists: bool = False,
) -> Path:
    """Log in, and see that the volume can be used; a target that stands by is asked to serve first,
    where the initiator `insists`.

    The name and the ISID are always the same, so a session that was there before ends with what it
    had not begun (RFC 7143, 6.3.5).  Raises PathLostError where there is no path now.
    """
    address = f"{portal[0]}:{portal[1]}"
    path = None
    try:
        async with asyncio.timeout(CONNECT_S):
            streams = await asyncio.open_connection(*portal)
            initiator = RawInitiator(*streams)
            try:
                await initiator.login(name=name, target=target)
            except BaseException:
                initiator.hang_up()
                raise
            path = Path(initiator, address, problem)
            while True:
                with contextlib.suppress(TryAgainError):
                    if insists:
                        await _ask_to_serve(path)
                    await path.ask(TEST_UNIT_READY)
                    return path
                await asyncio.sleep(AGAIN_S)
    except (OSError, EOFError, AssertionError, RefusedError, PathLostError) as error:
        # A login that is refused is an assertion of the initiator's; TimeoutError an OSError.
        if path is not None:
            path.close("there was no answer when it was new")
        raise PathLostError(f"{address}: {error!r}") from error
