"""Asking a daemon how it is: `cstor-target health` and `cstor-replica health`, for probes.

It asks the gRPC health service (grpc.health.v1) with the settings that the daemon itself is started
with, so that a probe within a container needs no argument; over TLS it shows the daemon's own
certificate, and expects to be shown the same.  Alive is a daemon that answers; ready is one that
says SERVING.  It imports little: a probe is a new process every few seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cstor_core.errors import CstorError, InputError, UnavailableError
from cstor_core.settings import Address, join_address, parse_address

ANSWER_S_MAX = 3.0
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, and not listened on


class HealthCode(IntEnum):
    """The exit codes."""

    WELL = 0
    UNWELL = 1
    INPUT = 2


AddressOption = Annotated[
    str | None,
    typer.Option("--address", help="HOST:PORT of its gRPC; else as the daemon is set to listen."),
]
ReadyOption = Annotated[
    bool,
    typer.Option("--ready/--live", help="Whether it serves (the default), or whether it answers."),
]
TimeoutOption = Annotated[
    float, typer.Option("--timeout-s", min=0.1, help="Seconds to wait for the answer.")
]
TlsOption = Annotated[
    Path | None,
    typer.Option("--tls", help="The daemon's certificates; else as the daemon is set to use."),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="The daemon's TOML file with settings.")
]


class Reached(NamedTuple):
    """Where a daemon listens, and the directory of its certificates, if it has one."""

    address: Address
    tls: Path | None


FindSettings = Callable[[dict[str, object], Path | None], Reached]
"""Reads, from flags and the file of settings, how a daemon of this machine is reached."""


def health_command(daemon: str, default_port: int, find: FindSettings) -> typer.Typer:
    """The command `DAEMON health`.

    Its exit codes are those of `HealthCode`: 0 well, 1 not, with a sentence, 2 wrong input.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

    @app.command()
    def health(
        *,
        address: AddressOption = None,
        ready: ReadyOption = True,
        timeout_s: TimeoutOption = ANSWER_S_MAX,
        tls: TlsOption = None,
        config: ConfigOption = None,
    ) -> None:
        """Ask a daemon that runs here, or at --address, how it is: a probe for init systems.

        Exit codes: 0 it is well, 1 it is not, 2 a setting is wrong.
        """
        try:
            found = find({"tls": tls}, config)
            where = parse_address(address) if address is not None else found.address
            said = check_health(reached_at(where, default_port), found.tls, timeout_s, ready=ready)
        except CstorError as error:
            print(f"{daemon}: {error}", file=sys.stderr)  # noqa: T201 - said to a person
            is_input = isinstance(error, InputError)
            raise typer.Exit(HealthCode.INPUT if is_input else HealthCode.UNWELL) from error
        print(said)  # noqa: T201 - said to a person

    return app


def reached_at(listening: Address, default_port: int) -> str:
    """HOST:PORT under which a daemon of this machine that listens there is reached."""
    host = EVERYWHERE.get(listening.host, listening.host)
    return join_address(host, listening.port or default_port)


def check_health(address: str, tls: Path | None, timeout_s: float, *, ready: bool) -> str:
    """Ask the daemon at HOST:PORT, over TLS where there is a directory of its certificates, and
    return a word for how it is.

    Raises UnavailableError where it does not answer, or is not ready and was asked for that;
    InputError where the certificates cannot be used.
    """
    with _channel(address, tls) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.RpcError as error:
            raise UnavailableError(f"{address} does not answer: {_reason(error)}") from error
    if answer.status == health_pb2.HealthCheckResponse.SERVING:
        return "ready"
    if ready:
        raise UnavailableError(f"{address} is alive, and does not serve yet: its log says why")
    return "alive"


def _channel(address: str, tls: Path | None) -> grpc.Channel:
    if tls is None:
        return grpc.insecure_channel(address)
    # Reading certificates takes a large library.
    from cstor_core.secure.certificates import holder_of, read_files

    files = read_files(tls)
    names = holder_of(files).addresses
    if not names:
        raise InputError(f"the certificate in {tls} is for no address: issue it with --address")
    credentials = grpc.ssl_channel_credentials(files.authorities, files.key, files.certificate)
    # The daemon is reached at an address of the machine, which its certificate need not be for.
    name = names[0].replace("*", "any", 1)
    return grpc.secure_channel(
        address, credentials, options=(("grpc.ssl_target_name_override", name),)
    )


def _reason(error: grpc.RpcError) -> str:
    # Every error of a call is also a grpc.Call; the stubs do not say so.
    return str(error.details() if isinstance(error, grpc.Call) else error)
