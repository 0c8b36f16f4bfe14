"""tshark, which others wrote, finds nothing malformed or unknown in what the target sends."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import pytest

from tests.conformance.dissection import Dissection, dissect
from tests.conformance.pcap import Capture
from tests.conformance.profiles import PROFILES, running
from tests.conformance.recorder import recorded
from tests.conformance.suite import Verdict, can_log_in, run_test

TESTS = (
    *("ExtendedCopy.Simple", "ReceiveCopyResults.CopyStatus", "Sanitize.InvalidServiceAction"),
    *("CompareAndWrite.Miscompare", "GetLBAStatus.Simple", "Inquiry.Standard", "Inquiry.EVPD"),
    *("Inquiry.BlockLimits", "Inquiry.MandatoryVPDSBC", "Inquiry.SupportedVPD"),
    *("Inquiry.AllocLength", "Inquiry.VersionDescriptors", "Mandatory.MandatorySBC"),
    *("ModeSense6.AllPages", "ModeSense6.Control", "ModeSense6.Control-D_SENSE"),
    *("ModeSense6.Control-SWP", "ModeSense6.Residuals", "OrWrite.BeyondEol"),
    *("PrinReadKeys.Simple", "PrinReportCapabilities.Simple", "ProutReserve.Simple"),
    *("ProutReserve.AccessEA", "ProutPreempt.RemoveRegistration", "Read10.BeyondEol"),
    *("Read10.ZeroBlocks", "Read16.DpoFua", "ReadCapacity16.Simple", "ReadCapacity16.Alloclen"),
    *("ReadDefectData10.Simple", "ReportSupportedOpcodes.Simple"),
    *("ReportSupportedOpcodes.OneCommand", "ReportSupportedOpcodes.RCTD", "Reserve6.2Initiators"),
    *("Unmap.VPD", "Verify10.Mismatch", "Write10.BeyondEol", "WriteAtomic16.VPD"),
    *("WriteSame16.UnmapVPD", "WriteVerify10.Flags", "iSCSIcmdsn.iSCSICmdSnTooHigh"),
    *("iSCSIdatasn.iSCSIDataSnInvalid", "iSCSIResiduals.Read10Invalid"),
    *("iSCSIResiduals.Write10Residuals", "iSCSITMF.AbortTaskSimpleAsync"),
)
"""Of each kind of answer at least one, and nothing that moves much data."""
KINDS = {
    *("Login Response", "Text Response", "Logout Response", "Task Management Function Response"),
    *("SCSI Response", "SCSI Data In", "Ready To Transfer"),
}
ANSWER_S_MAX = 60.0
"""When a silent connection is given up."""
CHAP = next(profile for profile in PROFILES if profile.chap_names)


def dissected(path: Path, *pdus: bytes) -> Dissection:
    """What tshark says of these bytes of a target's."""
    with Capture(path) as capture:
        connection = capture.connection()
        for pdu in pdus:
            connection.data(pdu, from_target=True)
    return dissect(path)


def header(opcode: int, *, flags: int = 0x80, status: int = 0, data: bytes = b"") -> bytes:
    """A PDU with that in bytes 0, 1 and 3, and with zeros elsewhere."""
    padding = bytes(-len(data) % 4)
    return struct.pack(">BBBBI40x", opcode, flags, 0, status, len(data)) + data + padding


SENSE = bytes.fromhex("0012 70 00 05 00000000 0a 00000000")
"""The length of fixed sense data and these, up to the additional sense code (RFC 7143 11.4.7)."""
RESPONSE = header(0x21)


@pytest.mark.system
@pytest.mark.parametrize(
    ("pdu", "words"),
    [
        (header(0x3B), "96 bytes were sent, and 48 are PDUs"),
        (RESPONSE[:20], "68 bytes were sent, and 48 are PDUs"),
        (header(0x24, data=b"Nonsense"), "[Malformed Packet: iSCSI]"),
        (header(0x23, flags=0x87, data=b"Nonsense\0"), "KeyValue: Nonsense"),
        (
            header(0x21, status=2, data=SENSE + bytes.fromhex("2477 00000000")),
            "Additional Sense Code+Qualifier: Unknown (0x2477)",
        ),
    ],
    ids=["opcode", "half", "no key", "no value", "sense"],
)
def test_what_no_standard_knows_is_found(tmp_path: Path, pdu: bytes, words: str) -> None:
    found = dissected(tmp_path / "it", RESPONSE, pdu)
    assert [finding.words for finding in found.findings] == [words]


READ_CAPACITY_16 = bytes.fromhex("9e10 0000000000000000 00000000 0000")
CUT_ANSWER = bytes.fromhex("00000000000fffff 00000200 00 03 c0")


@pytest.mark.system
@pytest.mark.parametrize(("wanted", "findings"), [(15, 0), (32, 1)])
def test_an_answer_may_end_where_the_initiator_had_it_end(
    tmp_path: Path, wanted: int, findings: int
) -> None:
    """The dissector finds both malformed: a field of two bytes has only its first one."""
    path = tmp_path / "it"
    with Capture(path) as capture:
        connection = capture.connection()
        command = struct.pack(">BB14xIIII16s", 0x01, 0xC1, 7, wanted, 1, 1, READ_CAPACITY_16)
        connection.data(command, from_target=False)
        data_in = header(0x25, flags=0x81, data=CUT_ANSWER)
        connection.data(data_in[:16] + (7).to_bytes(4) + data_in[20:], from_target=True)
    found = dissect(path)
    assert len(found.findings) == findings
    assert found.dissectors_own.total() == 1 - findings


@pytest.mark.system
def test_what_the_standards_know_is_not(tmp_path: Path) -> None:
    sense = SENSE + bytes.fromhex("2400 00000000")
    found = dissected(tmp_path / "it", RESPONSE, header(0x21, status=2, data=sense))
    assert found.findings == []
    assert found.pdus == {"SCSI Response": 2}
    assert found.bytes_sent == found.bytes_of_pdus


def test_a_recorder_hands_on_what_both_sides_say_until_one_ends(tmp_path: Path) -> None:
    path = tmp_path / "it"
    with (
        socket.create_server(("127.0.0.1", 0)) as target,
        recorded([target.getsockname()], path) as [portal],
        socket.create_connection(portal, timeout=ANSWER_S_MAX) as initiator,
    ):
        accepted, _ = target.accept()
        with accepted:
            initiator.sendall(b"a question")
            assert accepted.recv(100) == b"a question"
            accepted.sendall(b"an answer")
            assert initiator.recv(100) == b"an answer"
        assert initiator.recv(100) == b""
    recording = path.read_bytes()
    assert 0 < recording.index(b"a question") < recording.index(b"an answer")


def test_a_recorder_ends_the_connection_where_nobody_listens(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        with (
            recorded([silent.getsockname()], tmp_path / "it") as [portal],
            socket.create_connection(portal, timeout=ANSWER_S_MAX) as initiator,
        ):
            assert initiator.recv(100) == b""


@pytest.mark.system
def test_tshark_finds_nothing_malformed_or_unknown_in_what_the_target_sends(tmp_path: Path) -> None:
    path = tmp_path / "it"
    with running(CHAP) as unit, recorded(unit.portals, path) as portals:
        assert can_log_in(unit.urls(portals, 0)[0])
        for turn, name in enumerate(TESTS):
            outcome = run_test(unit.urls(portals, turn), name)
            assert outcome.verdict is Verdict.PASSED, outcome
    found = dissect(path)
    assert found.findings == []
    assert found.pdus.keys() >= KINDS
    print(f"\ntshark: {found.pdus.total()} PDUs, {found.dissectors_own.total()} words of its own")
