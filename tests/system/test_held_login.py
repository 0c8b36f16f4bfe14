"""A login that comes before the volume is open is held, and refused when that takes too long."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest

from cstor_target.iscsi.constants import LoginStatus
from tests.system.cluster import IQN_PREFIX, Cluster
from tests.system.hosts import THIS_MACHINE, DaemonByHand, Settings
from tests.system.pauses import stopped
from tests.system.plain_initiator import ANSWER_S_MAX, PlainInitiator
from tests.system.tools import free_port

pytestmark = [pytest.mark.system, pytest.mark.long]

VOLUME = "test"
SOON_S = 0.5


def test_a_login_is_held_until_the_volume_is_open_or_refused_when_that_takes_too_long(
    cluster: Cluster, tmp_path: Path
) -> None:
    replicas = [replica["address"] for replica in cluster.wait_until_in_sync().document["replicas"]]
    cluster.kill()
    iqn = IQN_PREFIX + VOLUME
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
        with PlainInitiator(portal) as initiator:
            start_s = time.monotonic()
            initiator.ask_for_login(iqn)
            assert initiator.login_status() is LoginStatus.SERVICE_UNAVAILABLE
            print(f"refused after {time.monotonic() - start_s:.1f} s")
            assert initiator.connection.recv(1) == b"", "the connection ends with the login"
        with PlainInitiator(portal) as initiator:
            initiator.ask_for_login(iqn)
            initiator.connection.settimeout(SOON_S)
            with pytest.raises(TimeoutError):
                initiator.connection.recv(1)
            initiator.connection.settimeout(ANSWER_S_MAX)
            silence.close()
            assert initiator.login_status() is LoginStatus.SUCCESS
            initiator.write_until_good()
