"""`cstor status --watch`: how a volume is, and again whenever that changes."""

from __future__ import annotations

import sys
import time

from cstor_cli.cluster_file import Home
from cstor_cli.following import Say, followed
from cstor_cli.options import Output
from cstor_cli.printing import console, local_time, print_line, print_status
from cstor_cli.replica_client import Dial
from cstor_cli.status import control_address, document_of, look_at


def watch_status(home: Home, dial: Dial, say: Say, output: Output) -> None:
    """Print it without an end, on a terminal in place of what was there.

    Raises a CstorError where the directory holds no volume, or its target does not answer at first.
    """
    volume = look_at(home).cluster.volume
    told = followed(
        lambda: control_address(look_at(home)),
        lambda client: client.watch_status(volume),
        say,
        "it is watched again",
    )
    for response in told:
        for report in response.volumes:
            document = document_of(look_at(home), report, "", dial)
            if output is not Output.TABLE:
                print_line(document, output)
                continue
            if sys.stdout.isatty():
                console.clear()
            console.print(local_time(time.time()))
            print_status(document)
