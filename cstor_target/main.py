"""The command `cstor-target`: flags in, exit code out; the daemon itself is in `daemon`."""

from __future__ import annotations

import asyncio
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
from cstor_target.settings import CONTROL_PORT, ControlSettings, TargetSettings

EXIT_FAILED = 1
EXIT_INPUT = 2
HELP = """Serve one replicated volume over iSCSI.

The replicas are kept by cstor-replica daemons, which --replica names; with --pool this process
keeps one itself.  It listens at once and opens the volume as soon as a quorum of its replicas
answers: /readyz on the HTTP port and `cstor status` say how far it is.

Each setting is a flag, else an environment variable (CSTOR_TARGET_PORTAL for --portal, and so on;
CSTOR_TARGET_REPLICA has its addresses separated by commas), else a key of the TOML file (portal,
replica = [...]), else its default.  A port that is not set moves to the next free one, and the
log and the ready file say which; one that is set and taken is an error.

Exit codes: 0 stopped by SIGTERM or SIGINT, everything flushed; 1 an error that the log explains;
2 a setting, port or directory that cannot be used, nothing touched; 3 another target has taken
the volume over.

cstor-target health asks a target that runs how it is, for probes (--help says more); a directory of
that name is served as ./health.
"""

application = typer.Typer(
    add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
)


@application.command(help=HELP)
def serve(
    state_dir: Annotated[
        Path | None,
        typer.Argument(help="Directory of this target; made if absent, and locked while it runs."),
    ] = None,
    volume: Annotated[str | None, typer.Option(help="Name or UUID of the volume.")] = None,
    replica: Annotated[
        list[str] | None,
        typer.Option(help="HOST:PORT of a replica daemon; give it once for each."),
    ] = None,
    pool: Annotated[
        Path | None, typer.Option(help="Also keep the replica in this pool directory.")
    ] = None,
    all_volumes: Annotated[
        bool | None,
        typer.Option(
            "--all-volumes",
            help="Also serve whatever other volume the daemons' pools hold a quorum of, and clones "
            "when they are made.",
        ),
    ] = None,
    standby: Annotated[
        bool | None,
        typer.Option(
            "--standby",
            help="Stand by while another target serves the volume, and take it over when none does "
            "any more.",
        ),
    ] = None,
    require_chap: Annotated[
        bool | None,
        typer.Option(
            "--require-chap", help="Where no CHAP secrets are set nobody logs in, not everybody."
        ),
    ] = None,
    portal: Annotated[
        str | None, typer.Option(help="HOST:PORT for iSCSI; default 127.0.0.1, port 3260.")
    ] = None,
    also_portal: Annotated[
        list[str] | None,
        typer.Option(
            "--also-portal",
            help="HOST:PORT of another iSCSI portal, a portal group of its own; repeat for each.",
        ),
    ] = None,
    portal_group: Annotated[
        int | None,
        typer.Option(
            help="Number of the portal group of --portal, from which the others count; default 1. "
            "Targets of one volume need different ones."
        ),
    ] = None,
    advertise: Annotated[
        list[str] | None,
        typer.Option(
            help="HOST:PORT that discovery names instead of --portal, where initiators reach it "
            "under another address; then of each --also-portal.",
        ),
    ] = None,
    control: Annotated[
        str | None, typer.Option(help="HOST:PORT for gRPC control; default 127.0.0.1, port 7777.")
    ] = None,
    http: Annotated[
        str | None,
        typer.Option(help="HOST:PORT for probes and status; default 127.0.0.1, port 6060."),
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help="HOST:PORT for Prometheus; default 127.0.0.1, port 9500.")
    ] = None,
    replica_grpc: Annotated[
        str | None,
        typer.Option(help="With --pool: HOST:PORT of its gRPC; default 127.0.0.1, port 7778."),
    ] = None,
    replica_metrics: Annotated[
        str | None,
        typer.Option(help="With --pool: HOST:PORT of its metrics; default 127.0.0.1, port 9501."),
    ] = None,
    logins_per_address: Annotated[
        int | None,
        typer.Option(
            help="How many connections of one address may be there that have not logged in; "
            "default 128."
        ),
    ] = None,
    write_timeout_s: Annotated[
        float | None,
        typer.Option(help="Seconds that commands wait for a quorum before BUSY; default 20."),
    ] = None,
    read_cache: Annotated[
        str | None,
        typer.Option(
            help="Memory of each volume for blocks that were read lately; 64MiB, 0 for none."
        ),
    ] = None,
    scrub_every: Annotated[
        str | None,
        typer.Option(
            help="Scrub the volume by itself, so long after the last time: 7d, 12h; 0, the "
            "default, is never."
        ),
    ] = None,
    scrub_rate: Annotated[
        str | None,
        typer.Option(help="What a scrub reads of each replica in a second at most; 64MiB/s."),
    ] = None,
    ready_file: Annotated[
        Path | None, typer.Option(help="JSON file with pid and ports, written when listening.")
    ] = None,
    log_format: Annotated[LogFormat | None, typer.Option(help="Default: console.")] = None,
    log_file: Annotated[
        Path | None, typer.Option(help="Rotated log file instead of standard error.")
    ] = None,
    log_level: Annotated[LogLevel | None, typer.Option(help="Default: info.")] = None,
    data_stream: Annotated[
        DataStream | None,
        typer.Option(
            help="Who speaks on the data streams: cStor itself (fast, the default), or the gRPC "
            "library (grpc); the same on the wire, and the replicas need not agree."
        ),
    ] = None,
    tls: Annotated[
        Path | None,
        typer.Option(
            help="Directory with tls.crt, tls.key and ca.crt (cstor certs issue): the control port "
            "is for operators with certificates, and replicas are reached over TLS."
        ),
    ] = None,
    insecure_network: Annotated[
        bool | None,
        typer.Option(
            "--insecure-network",
            help="Without --tls: let all ports be reached from a network, by whoever is there.",
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with settings.")] = None,
) -> None:
    """Read the settings and run the daemon until it ends; exits with its code."""
    flags = {name: value for name, value in locals().items() if name != "config"}
    flags["replica"] = replica or None
    try:
        settings = load_settings(TargetSettings, flags, config)
        configure_logs(settings.log_format, settings.log_level, settings.log_file)
    except InputError as error:
        print(f"cstor-target: {error}", file=sys.stderr)  # noqa: T201 - there is no log yet
        raise typer.Exit(EXIT_INPUT) from error
    raise typer.Exit(run(settings))


def run(settings: TargetSettings) -> int:
    """Run the daemon; returns its exit code."""
    from cstor_target.daemon import TargetDaemon

    daemon = TargetDaemon(settings)
    settle_in()
    take_turns()
    allow_open_files()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            exit_code = runner.run(daemon.run())
        structlog.get_logger().info("target_stopped", exit_code=exit_code)
        return exit_code
    except CstorError as error:
        structlog.get_logger().error("target_not_served", reason=str(error))
        if settings.log_file is not None:
            print(f"cstor-target: {error}", file=sys.stderr)  # noqa: T201 - said to a person
        return EXIT_INPUT if isinstance(error, InputError) else EXIT_FAILED


def _reached(flags: dict[str, object], config: Path | None) -> Reached:
    settings = load_settings(ControlSettings, flags, config)
    return Reached(settings.control, settings.tls)


def main() -> None:
    """The console script."""
    if sys.argv[1:2] == ["health"]:
        health_command("cstor-target", CONTROL_PORT, _reached)(
            sys.argv[2:], prog_name="cstor-target health"
        )
    else:
        application(prog_name="cstor-target")
