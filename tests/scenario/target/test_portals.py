"""Several portals of one target, and initiators that are sent to another one."""

from __future__ import annotations

import json
from pathlib import Path

from cstor_target.iscsi.constants import LoginStatus
from tests.scenario.target.daemon import ANY_PORT, until
from tests.scenario.target.test_forced import cstor
from tests.scenario.target.test_one_process import found, is_ready, with_pool
from tests.system.plain_initiator import PlainInitiator
from tests.unit.target.standin import IQN


def status_at(portal: str) -> LoginStatus:
    """How a login ends."""
    host, _, port = portal.rpartition(":")
    with PlainInitiator((host, int(port))) as initiator:
        initiator.ask_for_login(IQN)
        return initiator.login_status()


def test_a_volume_is_reached_through_each_portal_unless_it_has_moved(tmp_path: Path) -> None:
    with with_pool(tmp_path, "--also-portal", ANY_PORT) as target:
        facts = target.ready()
        at = ("--target", facts["control"])
        found(facts["replica_grpc"])
        until(lambda: is_ready(facts))
        (other,) = json.loads(target.ready_file.read_text())["also_portals"]
        for portal in (facts["portal"], other):
            assert status_at(portal) is LoginStatus.SUCCESS
        assert "names no port" in cstor("session", "redirect", "192.0.2.8", *at, code=2)
        said = cstor("session", "redirect", "192.0.2.8:3260", *at)
        assert said == "vol1: initiators log in at 192.0.2.8:3260\n"
        for portal in (facts["portal"], other):
            assert status_at(portal) is LoginStatus.TARGET_MOVED_TEMPORARILY
        assert "log in at 192.0.2.8:3260" in cstor("events", *at)
        assert cstor("session", "redirect", "here", *at) == "vol1: initiators log in here again\n"
        assert status_at(other) is LoginStatus.SUCCESS
        assert target.stop() == 0
