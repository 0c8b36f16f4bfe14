"""The command `cstor-replica`: the daemon, and what one does with a pool that it does not serve.

`cstor-replica DIR` serves; `cstor-replica check DIR` and `cstor-replica show DIR` look at a pool
that is stopped; `cstor-replica health` asks a daemon that runs how it is, for probes (a directory
of such a name is served as `./check`).

Exit codes of the daemon: 0 after a clean stop, 1 when something broke, 2 when a setting, a port
or the directory cannot be used (nothing was touched then).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import structlog
import typer
import uvloop

from cstor_core.errors import CstorError, InputError
from cstor_core.health import Reached, health_command
from cstor_core.logs import LogFormat, LogLevel, configure_logs
from cstor_core.memory import settle_in
from cstor_core.open_files import allow_open_files
from cstor_core.processors import take_turns
from cstor_core.settings import DataStream, load_settings
from replica.settings import LISTEN_PORT, METRICS_PORT, ListenSettings, ReplicaSettings

ELSE = (
    "With a stopped pool: cstor-replica check DIR, cstor-replica show DIR; with a daemon that "
    "runs: cstor-replica health (--help says more)."
)
TOOLS = ("check", "show")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

PoolArgument = Annotated[
    Path | None,
    typer.Argument(help="The pool directory; made where it is absent or empty.", metavar="DIR"),
]
WitnessOption = Annotated[
    bool | None,
    typer.Option(
        "--witness",
        help="Be the witness of volumes with two replicas: it holds no data, a few KiB of DIR for "
        "each volume, and says which replica is out of date. Keep it on a third machine.",
    ),
]
ListenOption = Annotated[
    str | None,
    typer.Option(
        help="Where targets and peers reach this daemon (gRPC), HOST:PORT. Without a port: "
        f"{LISTEN_PORT}, or the next free one. Beyond 127.0.0.1 it needs --tls.",
    ),
]
MetricsOption = Annotated[
    str | None,
    typer.Option(
        help="Where Prometheus finds /metrics, HOST:PORT. Without a port: "
        f"{METRICS_PORT}, or the next free one.",
    ),
]
MarksOption = Annotated[
    Path | None,
    typer.Option(
        help="Where a replica is marked whose disk has failed: a directory that lives exactly as "
        "long as the boot of the machine. /run/cstor by default, or one of the user's own."
    ),
]
MapCacheOption = Annotated[
    str | None,
    typer.Option(
        help="Memory for the map of each replica: 1MiB or more, 128MiB by default. A map that is "
        "larger (32 bytes for each 4 KiB block) is read from the disk where it is needed."
    ),
]
LogFormatOption = Annotated[
    LogFormat | None, typer.Option(help="Logs for eyes (console, the default) or as JSON.")
]
LogFileOption = Annotated[
    Path | None,
    typer.Option(help="Write logs to this file, rotated by size, and not to standard error."),
]
LogLevelOption = Annotated[
    LogLevel | None, typer.Option(help="The lowest level that is logged; info by default.")
]
ReadyFileOption = Annotated[
    Path | None,
    typer.Option(
        help="Written when the daemon serves: JSON with pid, grpc, metrics and pool_uuid."
    ),
]
DataStreamOption = Annotated[
    DataStream | None,
    typer.Option(
        help="Who serves the data streams: cStor itself (fast, the default), or the gRPC "
        "library (grpc). Both speak the same on the wire."
    ),
]
TlsOption = Annotated[
    Path | None,
    typer.Option(
        help="A directory with tls.crt, tls.key and ca.crt (cstor certs issue): whoever connects "
        "to the gRPC port has to show a certificate, and what he may do is in it.",
    ),
]
InsecureNetworkOption = Annotated[
    bool | None,
    typer.Option(
        "--insecure-network",
        help="Without --tls: let the ports be reached from a network, by whoever is there.",
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(help="A TOML file with these settings, in the words of the flags."),
]


@app.command(epilog=ELSE)
def replica(
    pool: PoolArgument = None,
    *,
    witness: WitnessOption = None,
    listen: ListenOption = None,
    metrics: MetricsOption = None,
    marks: MarksOption = None,
    map_cache: MapCacheOption = None,
    log_format: LogFormatOption = None,
    log_file: LogFileOption = None,
    log_level: LogLevelOption = None,
    ready_file: ReadyFileOption = None,
    data_stream: DataStreamOption = None,
    tls: TlsOption = None,
    insecure_network: InsecureNetworkOption = None,
    config: ConfigOption = None,
) -> None:
    """Serve the replicas in one pool directory, or with --witness what it witnesses.

    Each setting may also be given as CSTOR_REPLICA_POOL, CSTOR_REPLICA_LISTEN and so on in the
    environment, or in the file of --config; a flag wins over the environment, that over the file.

    SIGTERM and SIGINT stop cleanly: everything is flushed, and the exit code is 0.
    """
    from replica.daemon import serve, serve_witness

    settings: ReplicaSettings | None = None
    try:
        settings = load_settings(
            ReplicaSettings,
            {
                "pool": pool,
                "witness": witness,
                "listen": listen,
                "metrics": metrics,
                "marks": marks,
                "map_cache": map_cache,
                "log_format": log_format,
                "log_file": log_file,
                "log_level": log_level,
                "ready_file": ready_file,
                "data_stream": data_stream,
                "tls": tls,
                "insecure_network": insecure_network,
            },
            config,
        )
        configure_logs(settings.log_format, settings.log_level, settings.log_file)
        settle_in()
        take_turns()
        allow_open_files()
        uvloop.run(serve_witness(settings) if settings.witness else serve(settings))
    except CstorError as error:
        structlog.get_logger().error("replica_ended", reason=str(error))
        if settings is None or settings.log_file is not None:
            print(f"cstor-replica: {error}", file=sys.stderr)  # noqa: T201 - said to a person
        raise typer.Exit(2 if isinstance(error, InputError) else 1) from error


def _reached(flags: dict[str, object], config: Path | None) -> Reached:
    settings = load_settings(ListenSettings, flags, config)
    return Reached(settings.listen, settings.tls)


def main() -> None:
    """The entry of the console script."""
    if sys.argv[1:2] == ["health"]:
        health_command("cstor-replica", LISTEN_PORT, _reached)(
            sys.argv[2:], prog_name="cstor-replica health"
        )
    elif sys.argv[1:2] and sys.argv[1] in TOOLS:
        from replica.tools import tools

        tools()
    else:
        app()
