"""What `cstor session` is given, and what it says."""

from __future__ import annotations

import pytest

from cstor_cli.sessions import asked_for, drop, print_sessions
from cstor_core.errors import InputError
from cstor_core.generated.cstor.v1 import control_pb2

LONGEST_NAME = "iqn." + "x" * 219


@pytest.mark.parametrize("text", ["1", "65535", "007"])
def test_a_number_is_a_tsih(text: str) -> None:
    assert asked_for(text) == control_pb2.DropSessionRequest(tsih=int(text))


@pytest.mark.parametrize("text", ["iqn.2004-10.com.example:host", "EUI.0123", "naa.5000", "iqn.1"])
def test_a_name_is_an_initiators(text: str) -> None:
    assert asked_for(text) == control_pb2.DropSessionRequest(initiator_name=text)


@pytest.mark.parametrize(
    "text", ["", "0", "65536", "-1", "1.5", "0x1", "\u0663", "9" * 5000, "host-a", " 1", "1\n"]
)
def test_anything_else_is_refused_before_anybody_is_asked(text: str) -> None:
    with pytest.raises(InputError, match="cstor session list shows both"):
        drop(text, target="127.0.0.1:1")


def test_a_target_is_named_in_one_way(tmp_path: object) -> None:
    with pytest.raises(InputError, match="not both"):
        drop("1", directory=tmp_path, target="127.0.0.1:1")  # type: ignore[arg-type]


def test_names_are_shown_whole_and_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    names = [LONGEST_NAME, "iqn.[red]host", "iqn.\x9b2Jhost"]
    peer = control_pb2.SessionConnection(peer_address="[2001:db8::7]:50000")
    sessions = [
        control_pb2.Session(
            volume="vol1", initiator_name=name, isid=b"\x80\0\0\0\0\x01", tsih=7, connections=[peer]
        )
        for name in names
    ]
    print_sessions(sessions)
    lines = capsys.readouterr().out.splitlines()
    for name in (LONGEST_NAME, "iqn.[red]host", "iqn.?2Jhost"):
        (line,) = (line for line in lines if f" {name} " in line)
        assert " 0x800000000001 " in line
        assert " [2001:db8::7]:50000 " in line
