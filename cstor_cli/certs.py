"""`cstor certs`: certificates for the links between daemons and operators, from a private
authority.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from cstor_cli.exit_codes import ExitCode
from cstor_cli.options import Output, OutputOption
from cstor_cli.printing import console, local_time, print_document
from cstor_core.errors import InputError
from cstor_core.secure.roles import Role, role_uri

app = typer.Typer(
    help="Make a private authority, issue certificates with it, and show what one says.",
    no_args_is_help=True,
)

AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 365
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@app.command()
def init(
    directory: Annotated[
        Path, typer.Argument(help="Where the authority is to be; its key stays there.")
    ],
    name: Annotated[
        str, typer.Option("--name", help="What the authority is called in its certificate.")
    ] = "cStor private authority",
    days: Annotated[
        int, typer.Option("--days", min=1, max=36500, help="How long it is valid.")
    ] = AUTHORITY_DAYS,
) -> None:
    """Make an authority: DIR/ca.crt, which everybody may have, and DIR/ca.key, which issues.

    Whoever has ca.key can be anybody: keep it off the hosts that serve.
    """

    from cstor_cli.authority import make_authority

    authority = make_authority(directory, name, days, datetime.now(UTC))
    end = local_time(authority.certificate.not_valid_after_utc.timestamp())
    typer.echo(f"{directory} is an authority until {end}: guard its ca.key")


@app.command("issue")
def issue_certificate(
    role: Annotated[Role, typer.Argument(help="What the holder is.")],
    name: Annotated[
        str, typer.Argument(help="Of a target its volume (name, UUID or *), else any name.")
    ],
    authority: Annotated[
        Path, typer.Option("--dir", help="The directory of the authority (cstor certs init).")
    ],
    out: Annotated[
        Path,
        typer.Option("--out", help="Where tls.crt, tls.key and ca.crt go; replaces those there."),
    ],
    address: Annotated[
        list[str],
        typer.Option(
            "--address",
            help="Host name or IP address under which others connect to it; once for each. "
            "Without any it is reached on its own machine alone (localhost).",
        ),
    ] = [],  # noqa: B006 (typer reads the default, nobody changes it)
    volume: Annotated[
        list[str],
        typer.Option(
            "--volume",
            help="Of a target: name or UUID of a volume, * for all; once for each. Without any: "
            "NAME.",
        ),
    ] = [],  # noqa: B006 (typer reads the default, nobody changes it)
    pool: Annotated[
        bool,
        typer.Option(
            "--pool", help="Of a target: it keeps a replica itself (cstor-target --pool)."
        ),
    ] = False,
    days: Annotated[
        int, typer.Option("--days", min=1, max=36500, help="How long it is valid.")
    ] = CERTIFICATE_DAYS,
) -> None:
    """Issue a certificate for a target, a replica daemon (or witness) or an operator.

    A daemon that uses the directory takes the new files without a restart.
    """

    from cstor_cli.authority import Wanted, issue, read_authority
    from cstor_core.secure.certificates import holder_of, read_files

    if role is not Role.TARGET and (volume or pool):
        raise InputError(f"--volume and --pool are for a target, and this is a {role}")
    if role is Role.OPERATOR and address:
        raise InputError("nobody connects to an operator: leave --address out")
    names = [(role, one) for one in volume or [name]]
    if pool:
        names.append((Role.REPLICA, "pool" if name == "*" else name))
    for each in names:
        role_uri(*each)
    addresses = () if role is Role.OPERATOR else tuple(address) or LOOPBACK
    wanted = Wanted(f"{role} {name}", tuple(names), addresses, days)
    issue(read_authority(authority), wanted, out, datetime.now(UTC))
    held = holder_of(read_files(out))
    typer.echo(f"{out} is {held.identity} until {local_time(held.not_after.timestamp())}")


@app.command()
def show(
    directory: Annotated[Path, typer.Argument(help="A directory with tls.crt, tls.key, ca.crt.")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what a certificate is for, and what keeps it from being used; exits 1 if something
    does.
    """

    from cstor_core.secure.certificates import holder_of, problems_of, read_files

    files = read_files(directory)
    held = holder_of(files)
    problems = problems_of(files, datetime.now(UTC))
    document: dict[str, Any] = {
        "directory": str(directory),
        "roles": [{"role": str(role), "name": name} for role, name in held.identity.names],
        "addresses": list(held.addresses),
        "not_before": held.not_before.isoformat(),
        "not_after": held.not_after.isoformat(),
        "issuer": held.issuer,
        "serial": held.serial,
        "problems": problems,
    }
    if output is not Output.TABLE:
        print_document(document, output)
    else:
        table = Table(box=box.SIMPLE, show_header=False)
        table.add_row("roles", Text(str(held.identity) or "none"))
        table.add_row("addresses", Text(", ".join(held.addresses) or "none"))
        table.add_row("valid from", local_time(held.not_before.timestamp()))
        table.add_row("valid until", local_time(held.not_after.timestamp()))
        table.add_row("issued by", Text(held.issuer))
        table.add_row("serial", held.serial)
        console.print(table)
        for problem in problems:
            console.print(f"  {problem}", markup=False)
    if problems:
        raise typer.Exit(ExitCode.FAILED)
