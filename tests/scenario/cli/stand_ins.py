"""Daemons that only look like the real ones: command line, ports, ready file, founding, signals.

They let `cstor up` be tried against what a daemon may do to it, in a second each.  A pool with a
file `damaged` in it is refused.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import uuid
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from cstor_cli.addresses import Address, is_free, parse_address
from cstor_cli.replica_client import GrpcReplicaClient
from cstor_core.errors import CstorError
from cstor_core.generated.cstor.v1 import control_pb2, replica_pb2

STATE = "state"
Handler = Any  # the stubs make it generic, and grpc does not


def write_programs(directory: Path) -> None:
    """Make the two console scripts in `directory`."""
    root = Path(__file__).parents[3]
    for name, function in (("cstor-replica", "run_replica"), ("cstor-target", "run_target")):
        script = directory / name
        script.write_text(
            f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(root)!r})\n"
            f"from tests.scenario.cli.stand_ins import {function}\n{function}()\n"
        )
        script.chmod(0o755)


class Pool:
    """The replica side of founding, kept in one file of the pool."""

    def __init__(self, path: Path) -> None:
        self._file = path / STATE
        path.mkdir(exist_ok=True)
        self.content = replica_pb2.DescribePoolResponse(pool_uuid=str(uuid.uuid4()))
        if self._file.exists():
            self.content.ParseFromString(self._file.read_bytes())
        self._save()

    def describe(self, _: replica_pb2.DescribePoolRequest) -> replica_pb2.DescribePoolResponse:
        return self.content

    def create(
        self, request: replica_pb2.CreateReplicaRequest
    ) -> replica_pb2.CreateReplicaResponse:
        report = self._find(request.identity.volume_uuid)
        if report is None:
            report = self.content.replicas.add(
                identity=request.identity,
                replica_uuid=str(uuid.uuid4()),
                state=replica_pb2.REPLICA_STATE_UNFOUNDED,
            )
            self._save()
        return replica_pb2.CreateReplicaResponse(replica=report)

    def found(self, request: replica_pb2.FoundReplicaRequest) -> replica_pb2.FoundReplicaResponse:
        report = self._find(request.volume_uuid)
        assert report is not None
        report.configuration.CopyFrom(request.configuration)
        report.state = replica_pb2.REPLICA_STATE_COMPLETE
        self._save()
        return replica_pb2.FoundReplicaResponse(replica=report)

    def inquire(self, request: replica_pb2.InquireRequest) -> replica_pb2.InquireResponse:
        return replica_pb2.InquireResponse(replica=self._find(request.volume))

    def _find(self, volume: str) -> replica_pb2.ReplicaReport | None:
        for report in self.content.replicas:
            if volume in (report.identity.volume_uuid, report.identity.name):
                return report
        return None

    def _save(self) -> None:
        self._file.write_bytes(self.content.SerializeToString())


def replica_methods(pool: Pool) -> dict[str, Handler]:
    """The calls of a replica daemon that the command uses."""
    return {
        "DescribePool": _handler(replica_pb2.DescribePoolRequest, pool.describe),
        "CreateReplica": _handler(replica_pb2.CreateReplicaRequest, pool.create),
        "FoundReplica": _handler(replica_pb2.FoundReplicaRequest, pool.found),
        "Inquire": _handler(replica_pb2.InquireRequest, pool.inquire),
    }


def run_replica() -> None:
    """The program `cstor-replica`."""
    parser = _parser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--listen", required=True)
    flags = parser.parse_args()
    _refuse_damaged(flags.directory)
    sockets = [_listen(flags.metrics)]
    server = _serve(flags.listen, "cstor.v1.ReplicaService", replica_methods(Pool(flags.directory)))
    _be_ready(flags, {"grpc": flags.listen, "metrics": flags.metrics})
    _wait_for_end(flags, server, sockets)


def run_target() -> None:
    """The program `cstor-target`."""
    parser = _parser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--all-volumes", action="store_true")
    parser.add_argument("--volume", required=True)
    parser.add_argument("--replica", action="append", default=[])
    parser.add_argument("--portal", required=True)
    parser.add_argument("--pool", type=Path)
    parser.add_argument("--control")
    parser.add_argument("--http")
    flags = parser.parse_args()
    flags.known = {}
    facts: dict[str, str] = {"portal": flags.portal}
    sockets = [_listen(flags.portal)]
    for name, port in (("http", 6060), ("metrics", 9500)):
        named = getattr(flags, name)
        sockets.append(_listen(named) if named else _listen_from(port))
        facts[name] = _address(sockets[-1])
    servers = []
    if flags.pool is not None:
        _refuse_damaged(flags.pool)
        methods = replica_methods(Pool(flags.pool))
        facts["replica_grpc"] = f"127.0.0.1:{_free_from(7778)}"
        servers.append(_serve(facts["replica_grpc"], "cstor.v1.ReplicaService", methods))
        sockets.append(_listen_from(9501))
        facts["replica_metrics"] = _address(sockets[-1])
        flags.replica = [facts["replica_grpc"]]
    facts["control"] = flags.control or f"127.0.0.1:{_free_from(7777)}"
    servers.append(_serve(facts["control"], "cstor.v1.ControlService", target_methods(flags)))
    _be_ready(flags, facts)
    _wait_for_end(flags, servers[0], sockets)


def target_methods(flags: Namespace) -> dict[str, Handler]:
    """The calls of a target that the command uses."""
    return {
        "ShowVolume": _handler(
            control_pb2.ShowVolumeRequest, lambda request: _show(flags, request)
        ),
        "ListVolumes": _handler(control_pb2.ListVolumesRequest, lambda _: _list(flags)),
        "MoveReplica": _handler(
            control_pb2.MoveReplicaRequest, lambda request: _move(flags, request)
        ),
    }


def _list(flags: Namespace) -> control_pb2.ListVolumesResponse:
    shown = _show(flags, control_pb2.ShowVolumeRequest(volume=flags.volume))
    return control_pb2.ListVolumesResponse(volumes=[shown.volume])


def _move(
    flags: Namespace, request: control_pb2.MoveReplicaRequest
) -> control_pb2.MoveReplicaResponse:
    """It is looked for there from now on."""
    moved = flags.known[request.replica]
    flags.replica[flags.replica.index(moved)] = request.address
    return control_pb2.MoveReplicaResponse(replica_uuid=request.replica)


def _show(
    flags: Namespace, request: control_pb2.ShowVolumeRequest
) -> control_pb2.ShowVolumeResponse:
    """What a target would say that sees its replicas as they are now."""
    report = control_pb2.VolumeReport(iqn=request.volume, portal=flags.portal, size_bytes=1 << 30)
    serving = 0
    for address in flags.replica:
        client = GrpcReplicaClient(address)
        member = report.members.add(status=control_pb2.MEMBER_STATUS_OFFLINE, reason="unreachable")
        member.member.address = address
        try:
            found = client.inquire(request.volume)
            if found.state == replica_pb2.REPLICA_STATE_COMPLETE:
                report.identity.CopyFrom(found.identity)
                flags.known[found.replica_uuid] = address
                member.status, member.reason = control_pb2.MEMBER_STATUS_IN_SYNC, ""
                serving += 1
        except CstorError:
            report.reason = f"{address} does not answer"
        finally:
            client.close()
        named = {known: uuid for uuid, known in flags.known.items()}
        member.member.replica_uuid = named.get(address, "")
    if serving == len(flags.replica):
        report.status = control_pb2.VOLUME_STATUS_HEALTHY
    elif serving >= len(flags.replica) // 2 + 1:
        report.status = control_pb2.VOLUME_STATUS_DEGRADED
    else:
        report.status = control_pb2.VOLUME_STATUS_WAITING
    return control_pb2.ShowVolumeResponse(volume=report)


def _parser() -> ArgumentParser:
    parser = ArgumentParser()
    for option in ("--metrics", "--ready-file", "--log-file"):
        parser.add_argument(option)
    return parser


def _refuse_damaged(directory: Path) -> None:
    if (directory / "damaged").exists():
        sys.exit(_refusal(f"the pool {directory} is damaged"))


def _refusal(sentence: str) -> int:
    sys.stderr.write(f"stand-in: {sentence}\n")
    return 2


def _handler(request: Any, answer: Callable[[Any], Any]) -> Handler:
    return grpc.unary_unary_rpc_method_handler(
        lambda message, _context: answer(message),
        request_deserializer=request.FromString,
        response_serializer=lambda message: message.SerializeToString(),
    )


def _serve(address: str, service: str, methods: dict[str, Handler]) -> grpc.Server:
    if not is_free(parse_address(address)):
        sys.exit(_taken(parse_address(address)))
    server = grpc.server(ThreadPoolExecutor(2), options=(("grpc.so_reuseport", 0),))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
    server.add_insecure_port(address)
    server.start()
    return server


def _listen(address: str) -> socket.socket:
    place = parse_address(address)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((place.host, place.port))
        listener.listen()
    except OSError:
        sys.exit(_taken(place))
    return listener


def _taken(place: Address) -> int:
    return _refusal(f"port {place.port} on {place.host} is taken: name another port")


def _free_from(port: int) -> int:
    while not is_free(parse_address(f"127.0.0.1:{port}")):
        port += 1
    return port


def _listen_from(port: int) -> socket.socket:
    return _listen(f"127.0.0.1:{_free_from(port)}")


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()
    return f"{host}:{port}"


def _be_ready(flags: Namespace, facts: dict[str, str]) -> None:
    ready = Path(flags.ready_file)
    new = ready.with_suffix(".new")
    new.write_text(json.dumps({"pid": os.getpid(), **facts}))
    new.rename(ready)
    with Path(flags.log_file).open("a") as log:
        log.write("it is ready\n")


def _wait_for_end(flags: Namespace, server: grpc.Server, sockets: list[socket.socket]) -> None:
    def end(_number: int, _frame: object) -> None:
        with Path(flags.log_file).open("a") as log:
            log.write(f"stopped at {time.time_ns()}\n")
        server.stop(None)
        for listener in sockets:
            listener.close()
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    while True:  # a signal may come to a thread of gRPC's, and would not end a longer sleep
        time.sleep(0.05)
