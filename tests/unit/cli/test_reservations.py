"""What `cstor reservation` says of who has registered."""

from __future__ import annotations

import pytest

from cstor_cli.reservations import document, print_reservations
from cstor_core.generated.cstor.v1 import volume_pb2

HOLDER = volume_pb2.Registration(
    initiator_port="iqn.2004-10.com.example:[red]a,i,0x1", target_port=1, key=0xAB, is_holder=True
)
OTHER = volume_pb2.Registration(
    initiator_port="iqn.2004-10.com.example:b,i,0x1", target_port=1, key=1
)


@pytest.mark.parametrize(
    ("kind", "word", "holders"),
    [
        (volume_pb2.RESERVATION_TYPE_WRITE_EXCLUSIVE, "write-exclusive", [True, False]),
        (
            volume_pb2.RESERVATION_TYPE_EXCLUSIVE_ACCESS_ALL_REGISTRANTS,
            "exclusive-access-all-registrants",
            [True, True],
        ),
    ],
)
def test_all_registrants_hold_what_is_reserved_for_all(
    kind: volume_pb2.ReservationType.ValueType, word: str, holders: list[bool]
) -> None:
    found = volume_pb2.Reservations(generation=3, type=kind, registrations=[HOLDER, OTHER])
    said = document("vol1", found)
    assert (said["generation"], said["reservation"]) == (3, word)
    assert [one["is_holder"] for one in said["registrations"]] == holders
    assert [one["key"] for one in said["registrations"]] == [f"0x{0xAB:016x}", f"0x{1:016x}"]


def test_names_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_reservations("vol1", volume_pb2.Reservations(registrations=[HOLDER, OTHER]))
    said = capsys.readouterr().out
    assert "vol1: not reserved\n" in said
    assert HOLDER.initiator_port in said
    assert OTHER.initiator_port in said
