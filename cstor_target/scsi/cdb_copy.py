"""The CDBs of EXTENDED COPY (LID1) and RECEIVE COPY RESULTS (SPC-4, 6.5, 6.22, 6.25)."""

from __future__ import annotations

from cstor_target.scsi.cdb_layout import (
    CONTROL,
    Cdb,
    Field,
    ignored,
    reserved,
    service_action,
    used,
)


def _receive_copy_results(name: str, action: int, list_identifier: Field) -> Cdb:
    return Cdb(
        f"RECEIVE COPY {name} (LID1)",
        0x84,
        reserved(3),
        service_action(action),
        list_identifier,
        reserved(56),
        used("allocation_length", 32),
        reserved(8),
        CONTROL,
    )


EXTENDED_COPY = Cdb(
    "EXTENDED COPY (LID1)",
    0x83,
    reserved(3),
    service_action(0x00),
    reserved(64),
    used("parameter_list_length", 32),
    reserved(8),
    CONTROL,
)
COPY_STATUS = _receive_copy_results("STATUS", 0x00, used("list_identifier", 8))
OPERATING_PARAMETERS = _receive_copy_results(
    "OPERATING PARAMETERS", 0x03, ignored("list_identifier", 8)
)
