"""`cstor doctor`: the command line of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cstor_cli.addresses import parse_address
from cstor_cli.cluster_file import FILE_NAME
from cstor_cli.exit_codes import ExitCode
from cstor_cli.interrupts import interruptible
from cstor_cli.options import DEFAULT_CONTROL, DEFAULT_DIRECTORY, Output, OutputOption
from cstor_cli.printing import print_document


def doctor(
    directory: Annotated[
        Path | None,
        typer.Option(
            "--dir",
            help="A directory of cstor up. Where nothing is named it is ./cstor-data, or else the "
            "target at 127.0.0.1:7777.",
        ),
    ] = None,
    target: Annotated[
        list[str],
        typer.Option(
            "--target", "--control", help="HOST:PORT of a target's control service; repeatable."
        ),
    ] = [],  # noqa: B006 (typer reads the default, nobody changes it)
    replica: Annotated[
        list[str],
        typer.Option(
            "--replica", help="HOST:PORT of a replica daemon no target tells of; repeatable."
        ),
    ] = [],  # noqa: B006
    certs: Annotated[
        list[Path],
        typer.Option("--certs", help="PEM file, or directory with tls.crt and ca.crt; repeatable."),
    ] = [],  # noqa: B006
    initiator_root: Annotated[
        Path,
        typer.Option(
            "--initiator-root", help="Where the file system of the host's initiator begins."
        ),
    ] = Path("/"),
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Read all blocks of all replicas and verify them."),
    ] = False,
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", help="Also write all that was seen to a new .tar.gz for support."),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Look at a whole deployment, and say what is wrong and what to do; it changes nothing.

    Exit code 0 where nothing is wrong, 1 where something is, 2 where what was given is.
    """

    from cstor_cli.doctor.bundle import new_file, write_bundle
    from cstor_cli.doctor.examining import examine
    from cstor_cli.doctor.gathering import Wanted, gather
    from cstor_cli.doctor.reporting import document, print_findings

    if directory is None and not target and not replica:
        if (DEFAULT_DIRECTORY / FILE_NAME).is_file():
            directory = DEFAULT_DIRECTORY
        else:
            target = [DEFAULT_CONTROL]
    wanted = Wanted(
        directory,
        [str(parse_address(each)) for each in dict.fromkeys(target)],
        [str(parse_address(each)) for each in dict.fromkeys(replica)],
        certs,
        initiator_root,
        verify,
        bundle is not None,
    )
    file = new_file(bundle) if bundle is not None else None
    try:
        with interruptible():
            picture = gather(wanted)
        findings = examine(picture)
        if file is not None:
            write_bundle(file, picture, findings, directory)
            file.close()
    except BaseException:
        if bundle is not None:
            bundle.unlink(missing_ok=True)
        raise
    if output is not Output.TABLE:
        print_document(document(picture, findings), output)
    else:
        print_findings(picture, findings)
    raise typer.Exit(ExitCode.FAILED if findings else ExitCode.OK)
