"""`cstor replica rebuild` and the watch of a volume's status, on processes of their own."""

from __future__ import annotations

import json
import signal
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from cstor_core.generated.cstor.v1 import control_pb2, control_pb2_grpc
from tests.scenario.replica.test_daemon import Daemon
from tests.scenario.target.daemon import WAIT_S, Target, local_ports, until
from tests.scenario.target.following import Follower
from tests.scenario.target.test_forced import CSTOR, cstor, is_ready
from tests.scenario.target.test_replicas import daemon_at

IN_SYNC = control_pb2.MEMBER_STATUS_IN_SYNC


async def test_replicas_are_watched_until_the_last_one_is_back(tmp_path: Path) -> None:
    with ExitStack() as stack:
        found = [await daemon_at(tmp_path / f"pool-{at}", stack) for at in range(3)]
        addresses = [address for _, address in found]
        replicas = [word for address in addresses for word in ("--replica", address)]
        cstor("volume", "create", "vol1", "--size", "64MiB", *replicas)
        target = stack.enter_context(Target(tmp_path, *replicas, *local_ports()))
        until(lambda: is_ready(target))
        control = target.ready()["control"]
        at = ("--target", control)
        until(lambda: "all replicas are in sync" in cstor("replica", "rebuild", *at))
        assert "has no replica 'nobody:1'" in cstor("replica", "rebuild", "nobody:1", *at, code=2)

        for pace in ("full", "gentle"):
            cstor("replica", "rebuild", "--pace", pace, *at)
            (volume,) = json.loads(cstor("volume", "list", "-o", "json", *at))
            assert volume["rebuild_pace"] == pace

        assert found[2][0].end(signal.SIGKILL) == -signal.SIGKILL
        watch = [*CSTOR, "replica", "rebuild", "--watch", *at]
        with Follower(watch) as lines, Follower([*watch, "-o", "json", addresses[2]]) as documents:
            lines.until(lambda line: line.startswith(f"{addresses[2]} offline: "))
            documents.until(lambda line: '"offline"' in line)
            again = Daemon(tmp_path / "pool-2", "--listen", addresses[2])
            stack.callback(again.process.wait)
            stack.callback(again.process.kill)
            await again.ready()
            lines.until(lambda line: line == f"{addresses[2]} in-sync")
            documents.until(lambda line: '"in-sync"' in line)
            assert (lines.process.wait(WAIT_S), documents.process.wait(WAIT_S)) == (0, 0)
        (last,) = json.loads(documents.lines[-1])
        assert (last["address"], last["status"]) == (addresses[2], "in-sync")


async def test_status_is_streamed_from_the_present_state_on(tmp_path: Path) -> None:
    with ExitStack() as stack:
        found = [await daemon_at(tmp_path / f"pool-{at}", stack) for at in range(3)]
        replicas = [word for _, address in found for word in ("--replica", address)]
        cstor("volume", "create", "vol1", "--size", "64MiB", *replicas)
        target = stack.enter_context(Target(tmp_path, *replicas, *local_ports()))
        until(lambda: is_ready(target))
        channel = stack.enter_context(grpc.insecure_channel(target.ready()["control"]))
        reports = control_pb2_grpc.ControlServiceStub(channel).WatchStatus(
            control_pb2.WatchStatusRequest(volume="vol1"), timeout=WAIT_S
        )

        def read_until(in_sync: int) -> None:
            """Read on until so many are in sync."""
            for told in reports:
                (report,) = told.volumes
                assert report.identity.name == "vol1"
                if sum(member.status == IN_SYNC for member in report.members) == in_sync:
                    return

        read_until(3)
        assert found[2][0].end(signal.SIGKILL) == -signal.SIGKILL
        read_until(2)
        assert target.stop() == 0
        with pytest.raises(grpc.RpcError, match="being stopped"):
            list(reports)
