"""A login that comes before the volume is open is held, and refused when that takes too long."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path

import pytest

from cstor_target.iscsi.constants import LoginStatus, Stage
from cstor_target.iscsi.pdu import LOGIN_REQUEST, LOGIN_RESPONSE
from cstor_target.iscsi.text import encode
from tests.system.cluster import IQN_PREFIX, Cluster
from tests.system.hosts import THIS_MACHINE, DaemonByHand, Settings
from tests.system.pauses import stopped
from tests.system.tools import free_port

pytestmark = [pytest.mark.system, pytest.mark.long]

VOLUME = "test"
HEADER_BYTES = 48
ANSWER_S_MAX = 60.0
"""When an answer is given up; no promise of the product."""
SOON_S = 0.5


def log_in(portal: tuple[str, int]) -> socket.socket:
    """Send a whole login in one request (RFC 7143, 11.12); its answer may take a while."""
    text = encode(
        [
            ("InitiatorName", "iqn.2016-09.com.openebs.cstor.tests:early"),
            ("TargetName", IQN_PREFIX + VOLUME),
            ("SessionType", "Normal"),
        ]
    )
    header = LOGIN_REQUEST.build(
        {
            "immediate": True,
            "transit": True,
            "csg": Stage.OPERATIONAL_NEGOTIATION,
            "nsg": Stage.FULL_FEATURE,
            "data_segment_length": len(text),
            "isid": b"\x80\0\0\0\0\x01",
            "cmd_sn": 1,
        }
    )
    connection = socket.create_connection(portal, timeout=ANSWER_S_MAX)
    connection.sendall(header + text + bytes(-len(text) % 4))
    return connection


def status_of_answer(connection: socket.socket) -> LoginStatus:
    """Wait for the Login Response; AssertionError where the connection ends without one."""
    header = connection.recv(HEADER_BYTES, socket.MSG_WAITALL)
    assert len(header) == HEADER_BYTES, "the connection was closed without an answer"
    return LoginStatus(LOGIN_RESPONSE.parse(header).status)


def test_a_login_is_held_until_the_volume_is_open_or_refused_when_that_takes_too_long(
    cluster: Cluster, tmp_path: Path
) -> None:
    replicas = [replica["address"] for replica in cluster.wait_until_in_sync().document["replicas"]]
    cluster.kill()
    portal = (THIS_MACHINE.address, free_port())
    flags = {"volume": VOLUME, "portal": f"{portal[0]}:{portal[1]}", "replica": replicas}
    with contextlib.ExitStack() as stack, contextlib.ExitStack() as silence:
        for index in (0, 1):
            silence.enter_context(stopped(cluster.replica(index).pid))
        target = DaemonByHand(
            "cstor-target", THIS_MACHINE, tmp_path, tmp_path / "target", Settings(flags=flags)
        )
        stack.callback(target.kill)
        target.wait_until_ready()
        with log_in(portal) as connection:
            start_s = time.monotonic()
            assert status_of_answer(connection) is LoginStatus.SERVICE_UNAVAILABLE
            print(f"refused after {time.monotonic() - start_s:.1f} s")
            assert connection.recv(1) == b"", "the connection ends with the login"
        with log_in(portal) as connection:
            connection.settimeout(SOON_S)
            with pytest.raises(TimeoutError):
                connection.recv(1)
            connection.settimeout(ANSWER_S_MAX)
            silence.close()
            assert status_of_answer(connection) is LoginStatus.SUCCESS
