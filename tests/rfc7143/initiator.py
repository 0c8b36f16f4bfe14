"""An initiator on a socket that sends what it is told, right or wrong, and judges every answer.

What holds for all PDUs of a target is asserted for each that arrives (`_judge`): digests and
padding, StatSN, ExpCmdSN and MaxCmdSN, reserved fields.  Tests look at the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from tests.rfc7143.wire import (
    HEADER,
    RESERVED,
    RESERVED_FIELDS,
    SERIAL,
    TEST_UNIT_READY,
    Op,
    Pdu,
    digest,
    padded,
    text,
)

TARGET = "iqn.2016-09.com.openebs.cstor:rfc7143"
NAME = "iqn.2004-10.com.example:raw"
ISID = 0x800000000001
UNIT_ATTENTION_OF_LOGIN = (6, 0x29, 0x00)


@dataclass(frozen=True)
class Digests:
    """Which digests a session has after its login (13.1)."""

    header: bool = False
    data: bool = False

    @property
    def keys(self) -> dict[str, str]:
        """What is offered for it."""
        return {
            "HeaderDigest": "CRC32C" if self.header else "None",
            "DataDigest": "CRC32C" if self.data else "None",
        }


class RawInitiator:
    """One connection; `isid`, `cid`, `tsih` and the numbers may be set before they are sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._digests = Digests()
        self._max_cmd_sn: int | None = None
        self._answered_logins = 0
        self.isid = ISID
        self.tsih = 0
        self.cid = 0
        self.cmd_sn = 100
        self.exp_stat_sn = 50
        self.next_tag = 1

    def send_bytes(self, stream: bytes) -> None:
        """As they are."""
        self._writer.write(stream)

    def encode(
        self,
        op: int,
        flags: int = 0x80,
        data: bytes = b"",
        *,
        immediate: bool = False,
        bytes_2_and_3: tuple[int, int] = (0, 0),
        lun: int = 0,
        itt: int | None = None,
        word_20: int = RESERVED,
        cmd_sn: int | None = None,
        tail: bytes = b"",
        ahs: bytes = b"",
        flip: str = "",
    ) -> bytes:
        """A request with its digests; `flip` names the digest that is to be wrong.

        The Initiator Task Tag is the next one unless it is given.  CmdSN goes on unless it is
        given or the request is immediate.
        """
        if itt is None:
            itt, self.next_tag = self.next_tag, self.next_tag + 1
        if cmd_sn is None:
            cmd_sn = self.cmd_sn
            if not immediate and op not in (Op.DATA_OUT, Op.SNACK):
                self.cmd_sn = (self.cmd_sn + 1) % SERIAL
        header = HEADER.pack(
            op | (0x40 if immediate else 0),
            flags,
            *bytes_2_and_3,
            len(ahs) // 4,
            len(data).to_bytes(3, "big"),
            lun,
            itt,
            word_20,
            cmd_sn,
            self.exp_stat_sn,
            tail.ljust(16, b"\0"),
        )
        stream = header + ahs
        if self._digests.header:
            stream += _digest(stream, wrong=flip == "header")
        if data:
            stream += padded(data)
            if self._digests.data:
                stream += _digest(padded(data), wrong=flip == "data")
        return stream

    def send(self, op: int, flags: int = 0x80, data: bytes = b"", **fields: object) -> int:
        """Send one request as `encode` makes it; its Initiator Task Tag."""
        stream = self.encode(op, flags, data, **fields)  # type: ignore[arg-type]
        self.send_bytes(stream)
        return int.from_bytes(stream[16:20], "big")

    def login_request(
        self,
        pairs: Mapping[str, str] | bytes,
        stages: tuple[int, int] = (1, 3),
        *,
        transit: bool = True,
        continues: bool = False,
        versions: tuple[int, int] = (0, 0),
        itt: int = 0,
    ) -> None:
        """A Login Request (11.12): CSG and NSG, and what the data segment says."""
        flags = (0x80 if transit else 0) | (0x40 if continues else 0) | stages[0] << 2 | stages[1]
        self.send(
            Op.LOGIN,
            flags,
            pairs if isinstance(pairs, bytes) else text(pairs),
            immediate=True,
            bytes_2_and_3=versions,
            lun=self.isid << 16 | self.tsih,
            itt=itt,
            word_20=self.cid << 16,
        )

    async def login(
        self, digests: Digests | None = None, /, name: str = NAME, target: str = TARGET, **keys: str
    ) -> Pdu:
        """Log in to the target in one request; in discovery, give SessionType."""
        digests = digests or Digests()
        pairs = {"InitiatorName": name, "TargetName": target}
        if keys.get("SessionType") == "Discovery":
            del pairs["TargetName"]
        self.login_request(pairs | digests.keys | keys)
        answer = await self.receive(Op.LOGIN_RESPONSE)
        assert answer.login_status == 0
        assert answer.final
        self.logged_in(answer, digests)
        return answer

    def logged_in(self, answer: Pdu, digests: Digests) -> None:
        """The full feature phase begins with these digests."""
        self.tsih = answer.number(14, 2)
        self._digests = digests

    async def settle(self) -> None:
        """Take the unit attention that a new nexus has."""
        self.command(TEST_UNIT_READY)
        assert (await self.receive(Op.RESPONSE)).sense == UNIT_ATTENTION_OF_LOGIN

    def command(
        self,
        cdb: bytes,
        data: bytes = b"",
        *,
        reads: int | None = None,
        writes: int | None = None,
        final: bool = True,
        **fields: object,
    ) -> int:
        """A SCSI Command (11.3); `reads` or `writes` is the Expected Data Transfer Length."""
        if data and writes is None:
            writes = len(data)
        flags = (0x80 if final else 0) | (0 if reads is None else 0x40)
        flags |= 0 if writes is None else 0x20
        length = writes if writes is not None else reads or 0
        return self.send(Op.COMMAND, flags, data, word_20=length, tail=cdb[:16], **fields)

    def data_out(
        self,
        itt: int,
        data: bytes,
        *,
        ttt: int = RESERVED,
        data_sn: int = 0,
        offset: int = 0,
        final: bool = True,
        flip: str = "",
    ) -> None:
        """A SCSI Data-Out (11.7)."""
        tail = bytes(4) + data_sn.to_bytes(4, "big") + offset.to_bytes(4, "big") + bytes(4)
        flags = 0x80 if final else 0
        self.send(Op.DATA_OUT, flags, data, itt=itt, word_20=ttt, cmd_sn=0, tail=tail, flip=flip)

    def manage(
        self,
        function: int,
        *,
        of: int = RESERVED,
        ref_cmd_sn: int = 0,
        immediate: bool = True,
        **fields: object,
    ) -> int:
        """A Task Management Function Request (11.5), immediate unless it is said otherwise."""
        return self.send(
            Op.TASK_MANAGEMENT,
            0x80 | function,
            b"",
            word_20=of,
            tail=ref_cmd_sn.to_bytes(4, "big"),
            immediate=immediate,
            **fields,
        )

    def ask(
        self,
        pairs: Mapping[str, str] | bytes = b"",
        *,
        ttt: int = RESERVED,
        flags: int = 0x80,
        **fields: object,
    ) -> int:
        """A Text Request (11.10)."""
        data = pairs if isinstance(pairs, bytes) else text(pairs)
        return self.send(Op.TEXT, flags, data, word_20=ttt, **fields)

    def logout(self, reason: int, cid: int | None = None) -> int:
        """A Logout Request (11.14)."""
        cid = self.cid if cid is None else cid
        return self.send(Op.LOGOUT, 0x80 | reason, word_20=cid << 16)

    async def receive(self, op: int | None = None) -> Pdu:
        """The next PDU of the target, judged; it has operation code `op` if that is given."""
        header = await self._reader.readexactly(48)
        assert header[4] == 0, "a target has no use for additional header segments"
        if self._digests.header:
            assert await self._reader.readexactly(4) == digest(header), "a wrong header digest"
        length = int.from_bytes(header[5:8], "big")
        segment = await self._reader.readexactly(length + 3 & ~3)
        if length and self._digests.data:
            assert await self._reader.readexactly(4) == digest(segment), "a wrong data digest"
        assert not any(segment[length:]), "pad bytes are zero (11.1)"
        pdu = Pdu(header, segment[:length])
        self._judge(pdu)
        assert op is None or pdu.op == op, f"{pdu.op:#x} {pdu.header.hex()} {pdu.data!r}"
        return pdu

    async def receive_all(self, *ops: int) -> list[Pdu]:
        """The next PDUs, of these operation codes."""
        return [await self.receive(op) for op in ops]

    async def hears_nothing(self) -> Pdu:
        """The target has nothing to say before it answers the ping that is sent here."""
        tag = self.send(Op.NOP_OUT, immediate=True)
        answer = await self.receive(Op.NOP_IN)
        assert answer.itt == tag
        return answer

    async def is_closed(self) -> bool:
        """The target closes the connection without another word."""
        try:
            return await self._reader.read() == b""
        except ConnectionResetError:
            return True

    def hang_up(self) -> None:
        """Close without a word."""
        self._writer.close()

    def _judge(self, pdu: Pdu) -> None:
        """What holds for every PDU of a target (4.2.2, 11.2.1, 11.4.11, 11.7.3, 11.8.2, 11.19)."""
        assert pdu.op in set(Op), f"operation code {pdu.op:#x}"
        assert pdu.header[0] & 0xC0 == 0, "the I bit is the initiator's"
        flags, fields = RESERVED_FIELDS[Op(pdu.op)]
        assert pdu.flags & flags == 0, f"reserved flags in {pdu.flags:#x}"
        for start, end in fields:
            assert not any(pdu.header[start:end]), f"the reserved bytes {start} to {end - 1}"
        if pdu.op == Op.LOGIN_RESPONSE:
            self._judge_login(pdu)
        elif pdu.op != Op.DATA_IN and pdu.op != Op.TEXT_RESPONSE:
            assert pdu.final
        if pdu.op == Op.LOGIN_RESPONSE and pdu.login_status:
            return
        if pdu.op == Op.DATA_IN and not pdu.flags & 1:
            assert not pdu.flags & 0x46, "A, O and U come with a status or not at all"
            assert not any(pdu.header[3:4] + pdu.header[24:28] + pdu.header[44:48])
        else:
            if pdu.op == Op.LOGIN_RESPONSE and self._answered_logins == 1:
                self.exp_stat_sn = pdu.stat_sn
            assert pdu.stat_sn == self.exp_stat_sn, "StatSN"
            is_counted = pdu.op != Op.R2T and not (pdu.op == Op.NOP_IN and pdu.itt == RESERVED)
            self.exp_stat_sn = (self.exp_stat_sn + is_counted) % SERIAL
        assert (pdu.max_cmd_sn - pdu.exp_cmd_sn + 1) % SERIAL < SERIAL // 2, "MaxCmdSN"
        if self._max_cmd_sn is not None:
            assert (pdu.max_cmd_sn - self._max_cmd_sn) % SERIAL < SERIAL // 2, "it went back"
        self._max_cmd_sn = pdu.max_cmd_sn

    def _judge_login(self, pdu: Pdu) -> None:
        assert not (pdu.final and pdu.flags & 0x40), "T and C in one Login Response"
        assert pdu.header[2:4] == b"\0\0", "the one version"
        assert pdu.number(8, 6) == self.isid
        self._answered_logins += 1


def _digest(piece: bytes, *, wrong: bool) -> bytes:
    value = digest(piece)
    return bytes((value[0] ^ 1,)) + value[1:] if wrong else value
