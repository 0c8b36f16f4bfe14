"""The command line of `cstor`: what may be written, and what the exit code is.

Nothing is decided here.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cstor_cli import secured
from cstor_cli.access import app as access_app
from cstor_cli.addresses import parse_address
from cstor_cli.certs import app as certs_app
from cstor_cli.chap import app as chap_app
from cstor_cli.clones import clone
from cstor_cli.cluster_file import Home
from cstor_cli.doctor.command import doctor
from cstor_cli.down import bring_down
from cstor_cli.events import as_text, finder, target_of
from cstor_cli.events import watch as watch_events
from cstor_cli.exit_codes import exit_code_of
from cstor_cli.forcing import force_open
from cstor_cli.foreground import stay
from cstor_cli.founding import LOGICAL_BLOCK_BYTES, Wanted, found
from cstor_cli.interrupts import InterruptedByUserError, interruptible
from cstor_cli.options import (
    DEFAULT_DIRECTORY,
    AnyDirectoryOption,
    Output,
    OutputOption,
    TargetOption,
    VolumeOption,
    YesOption,
)
from cstor_cli.pools import app as pool_app
from cstor_cli.printing import print_document, print_status, print_volumes
from cstor_cli.recover import recover
from cstor_cli.replica_client import GrpcReplicaClient
from cstor_cli.replicas import app as replica_app
from cstor_cli.reservations import app as reservation_app
from cstor_cli.scrubbing import scrub
from cstor_cli.sessions import app as session_app
from cstor_cli.snapshots import app as snapshot_app
from cstor_cli.status import look_at, status_document, volume_document
from cstor_cli.status_watch import watch_status
from cstor_cli.targets import app as target_app
from cstor_cli.up import Options, bring_up, new_salt, new_uuid
from cstor_cli.volume_verbs import delete as delete_volume
from cstor_cli.volume_verbs import sanitize, set_property
from cstor_core.errors import CstorError, InputError
from cstor_core.units import format_size, parse_size

HELP = """A replicated block volume, served over iSCSI.

Exit codes: 0 it worked; 1 it failed, or copies differ; 2 something that was given is wrong, and
nothing was touched; 3 something that had to be read could not be read.
"""

app = typer.Typer(
    help=HELP, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None
)
volume_app = typer.Typer(
    help="Found, show, change, compare, scrub, recover, erase and delete volumes.",
    no_args_is_help=True,
)
volume_app.command("set")(set_property)
volume_app.command("delete")(delete_volume)
volume_app.command("sanitize")(sanitize)
app.add_typer(volume_app, name="volume")
volume_app.command("scrub")(scrub)
volume_app.command("recover")(recover)
app.command()(clone)
app.command()(doctor)
app.add_typer(snapshot_app, name="snapshot")
app.add_typer(replica_app, name="replica")
app.add_typer(session_app, name="session")
app.add_typer(reservation_app, name="reservation")
app.add_typer(access_app, name="access")
app.add_typer(chap_app, name="chap")
app.add_typer(certs_app, name="certs")
app.add_typer(pool_app, name="pool")
app.add_typer(target_app, name="target")


DirectoryOption = Annotated[
    Path, typer.Option("--dir", help="Where the volume's data, logs and state are.")
]
SizeOption = Annotated[
    str | None, typer.Option("--size", help="Size of the volume: 1GiB, 512M, or bytes.")
]
BlockOption = Annotated[
    int | None,
    typer.Option("--logical-block-size", help="Bytes of a logical sector: 512 or 4096."),
]
ReplicasOption = Annotated[
    list[str], typer.Option("--replica", help="HOST:PORT of a replica daemon; once for each.")
]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    tls: Annotated[
        Path | None,
        typer.Option(
            "--tls",
            envvar="CSTOR_TLS",
            help="Directory with an operator's tls.crt, tls.key and ca.crt (cstor certs issue), to "
            "reach daemons over TLS. What cstor up runs is reached without.",
        ),
    ] = None,
) -> None:
    secured.use(tls)
    if version:
        typer.echo(importlib.metadata.version("cstor"))
        raise typer.Exit


@app.command()
def up(
    directory: DirectoryOption = DEFAULT_DIRECTORY,
    size: SizeOption = None,
    replicas: Annotated[
        int | None, typer.Option(help="Number of copies; with 1 all is one process.")
    ] = None,
    witness: Annotated[
        bool,
        typer.Option(
            "--witness",
            help="Two copies and a witness, which holds no data: either copy may be lost.",
        ),
    ] = False,
    portal: Annotated[
        str | None, typer.Option(help="HOST:PORT for initiators; 127.0.0.1:3260 if it is free.")
    ] = None,
    targets: Annotated[
        int | None,
        typer.Option(
            help="Number of targets, each with a portal: one serves, the others stand by to take "
            "over; default 1."
        ),
    ] = None,
    volume: Annotated[
        str | None, typer.Option(help="Name of the volume, the last part of its iSCSI name.")
    ] = None,
    logical_block_size: BlockOption = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return once initiators can log in.")
    ] = False,
) -> None:
    """Start a volume on this machine and stay until Ctrl-C, which stops it.

    A new directory gets a new volume: 1GiB, three replicas, 512-byte logical sectors.  A directory
    that holds one already is started as it is, and options that do not fit it are refused; what
    runs already is left alone.
    """

    options = Options(
        volume,
        parse_size(size) if size is not None else None,
        replicas,
        witness,
        logical_block_size,
        portal,
        targets,
    )
    with interruptible():
        result = bring_up(directory, options, _say)
        code = stay(directory, result, _say, _complain, detach=detach)
    raise typer.Exit(code)


@app.command()
def status(
    directory: DirectoryOption = DEFAULT_DIRECTORY,
    follow: Annotated[
        bool, typer.Option("--watch", help="Say it again whenever it changes, until Ctrl-C.")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say how the volume and each of its replicas are; works while they are down, too.

    With --watch it goes on over restarts of the target; with --output json each is one line then,
    with --output yaml a document of its own.
    """

    if follow:
        with contextlib.suppress(InterruptedByUserError), interruptible():
            watch_status(Home.at(directory), GrpcReplicaClient, _complain, output)
        return
    document = status_document(look_at(Home.at(directory)), GrpcReplicaClient)
    if output is not Output.TABLE:
        print_document(document, output)
    else:
        print_status(document)


@app.command()
def events(
    volume: Annotated[
        str, typer.Argument(help="Name or UUID of a volume; without it, all of the target's.")
    ] = "",
    directory: AnyDirectoryOption = None,
    control: TargetOption = None,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow", "-f", help="Go on with what happens, over restarts too, until Ctrl-C."
        ),
    ] = False,
    after: Annotated[
        int, typer.Option("--after", min=0, help="Only events with a higher number than this.")
    ] = 0,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say what has happened to a volume: each event with its time, its severity and a sentence.

    The target keeps its last 1000 events.  With --output json each is one line, with --output yaml
    a document of its own, with the number that --after takes.
    """

    find = finder(directory, control)
    with interruptible():
        try:
            for told in watch_events(find, volume, after, _complain, follow=follow):
                if text := as_text(told, output):
                    _say(text)
        except InterruptedByUserError:
            if not follow:
                raise


@app.command()
def down(directory: DirectoryOption = DEFAULT_DIRECTORY) -> None:
    """Flush and stop everything of a volume on this machine, and wait until its ports are free."""

    bring_down(directory, _say)


@volume_app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Name of the volume: a-z, 0-9, '.' and '-'.")],
    size: Annotated[str, typer.Option("--size", help="Size of the volume: 1GiB, 512M, or bytes.")],
    replica: ReplicasOption,
    witness: Annotated[
        str,
        typer.Option(
            "--witness",
            help="HOST:PORT of the daemon of a witness (cstor-replica --witness), with two "
            "replicas: either one may be lost then.",
        ),
    ] = "",
    logical_block_size: BlockOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Found a volume on replica daemons that run already, on this or on other hosts.

    If it breaks off half-way, the same command completes it.
    """

    wanted = Wanted(name, parse_size(size), logical_block_size or LOGICAL_BLOCK_BYTES[0])
    result = found(
        wanted,
        replica,
        GrpcReplicaClient,
        new_uuid,
        new_salt,
        witness,
    )
    if not result.completed:
        raise InputError(f"a volume {name} exists already on these daemons")
    members = result.configuration.members
    if output is not Output.TABLE:
        print_document(
            {
                "name": name,
                "uuid": result.identity.volume_uuid,
                "size_bytes": result.identity.size_bytes,
                "members": [
                    {
                        "uuid": member.replica_uuid,
                        "address": member.address,
                        "witness": member.witness,
                    }
                    for member in members
                ],
            },
            output,
        )
        return
    _say(f"{name} is founded, with the UUID {result.identity.volume_uuid}:")
    for member in members:
        kind = "witness" if member.witness else "replica"
        _say(f"  {kind} {member.replica_uuid} at {member.address}")
    _say("serve it with")
    addresses = " ".join(f"--replica {member.address}" for member in members)
    _say(f"  cstor-target STATE_DIR --volume {name} {addresses} --portal HOST:3260")


@volume_app.command("compare")
def compare(
    directory: Annotated[
        Path | None, typer.Option("--dir", help="A directory of cstor up; its volume is compared.")
    ] = None,
    replica: ReplicasOption = [],  # noqa: B006 (typer reads the default, nobody changes it)
    volume: Annotated[
        str | None, typer.Option(help="Name or UUID of the volume, with --replica.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Read all data on all members and compare versions and checksums, block by block.

    Exit code 0 only if every member was read and all are equal; 1 where blocks differ or do not
    match their checksums; 3 where a member could not be read.
    """

    # numpy takes longer to import than any other command takes to run.
    from cstor_cli.compare_printing import comparison_document, print_comparison
    from cstor_cli.comparing import compare_volume

    name, addresses = _what_to_compare(directory, replica, volume)
    comparison = compare_volume(name, addresses, GrpcReplicaClient)
    if output is not Output.TABLE:
        print_document(comparison_document(comparison), output)
    else:
        print_comparison(comparison)
    raise typer.Exit(comparison.exit_code)


def _what_to_compare(
    directory: Path | None, replicas: list[str], volume: str | None
) -> tuple[str, list[str]]:
    """The volume, and where its members are."""

    if replicas:
        if volume is None or directory is not None:
            raise InputError("with --replica, name the volume with --volume, and no --dir")
        return volume, [str(parse_address(address)) for address in replicas]
    look = look_at(Home.at(directory or DEFAULT_DIRECTORY))
    if volume is not None and volume not in (look.cluster.volume, look.cluster.volume_uuid):
        raise InputError(f"{look.home.path} holds {look.cluster.volume}, not {volume}")
    addresses = [
        look.replica_address(index)
        for index, place in enumerate(look.cluster.replicas)
        if not place.witness
    ]
    return look.cluster.volume_uuid or look.cluster.volume, addresses


@volume_app.command("list")
def list_volumes(
    directory: AnyDirectoryOption = None,
    control: TargetOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List the volumes that a target serves."""

    with target_of(directory, control) as client:
        documents: list[dict[str, Any]] = [volume_document(v) for v in client.list_volumes()]
    if output is not Output.TABLE:
        print_document(documents, output)
    else:
        print_volumes(documents)


@volume_app.command("show")
def show_volume(
    volume: Annotated[str, typer.Argument(help="Name or UUID of the volume.")],
    directory: AnyDirectoryOption = None,
    control: TargetOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show one volume of a target."""

    with target_of(directory, control) as client:
        document = volume_document(client.show_volume(volume))
    if output is not Output.TABLE:
        print_document(document, output)
    else:
        print_volumes([document])


@volume_app.command("resize")
def resize(
    size: Annotated[str, typer.Argument(help="The new size: 2GiB, 512M, or bytes.")],
    volume: VolumeOption = "",
    directory: AnyDirectoryOption = None,
    control: TargetOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Let a volume grow while it is used; initiators see it after a rescan."""

    size_bytes = parse_size(size)
    with target_of(directory, control) as client:
        name = client.named(volume)
        got_bytes = client.resize(name, size_bytes)
    if output is not Output.TABLE:
        print_document({"name": name, "size_bytes": got_bytes}, output)
    else:
        _say(f"{name} has {format_size(got_bytes)}")


@volume_app.command("open")
def open_volume(
    volume: Annotated[str, typer.Argument(help="Name or UUID of the volume.")],
    force: Annotated[
        bool, typer.Option("--force", help="Open it although too few replicas are there.")
    ] = False,
    replica: Annotated[
        list[str],
        typer.Option(
            "--replica",
            help="UUID or HOST:PORT of a replica to go on with, once for each; without it, all "
            "that answer and are complete.",
        ),
    ] = [],  # noqa: B006 (typer reads the default, nobody changes it)
    directory: AnyDirectoryOption = None,
    control: TargetOption = None,
    yes: YesOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Force a volume open with the replicas that are left, when the others are lost for good.

    A volume opens by itself as soon as a quorum of its replicas answers: start their daemons first.
    What only the other replicas held is lost; it is said before anything is done.
    """

    if not force:
        raise InputError(
            f"volume {volume} opens by itself as soon as a quorum of its replicas answers: start "
            "their daemons; if they are lost for good, --force opens it with what is left"
        )

    def agrees(sentence: str) -> bool:
        _complain(f"volume {volume}: {sentence}")
        return yes or typer.confirm("Force it open?", err=True)

    find = finder(directory, control)
    with interruptible():
        report = force_open(find(), volume, replica, agrees)
    if output is not Output.TABLE:
        print_document(volume_document(report), output)
    else:
        _say(f"{report.identity.name} is open in epoch {report.epoch}")


def main() -> None:
    """Run the command line; exits the process."""
    try:
        app()
    except CstorError as error:
        _complain(str(error))
        sys.exit(exit_code_of(error))


def _say(line: str) -> None:
    typer.echo(line)


def _complain(line: str) -> None:
    typer.echo(f"cstor: {line}", err=True)
