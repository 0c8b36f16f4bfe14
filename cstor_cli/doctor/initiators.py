"""What open-iscsi on this host has been told: how long it waits for a target of ours.

Its files hold CHAP passwords, too; of them nothing but the one setting is taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from cstor_cli.cluster_file import IQN_PREFIX
from cstor_cli.doctor.picture import TimeoutSeen

CONFIGURATION = "etc/iscsi/iscsid.conf"
RECORDS = ("etc/iscsi/nodes", "var/lib/iscsi/nodes")
"""Where distributions keep them: a directory a target, and a file, or a directory, a portal."""
SESSIONS = "sys/class/iscsi_session"
SETTING = re.compile(
    r"^\s*node\.session\.timeo\.replacement_timeout\s*=\s*(-?\d+)\s*$", re.MULTILINE
)


def timeouts(root: Path) -> Iterator[TimeoutSeen]:
    """Of the initiator whose file system begins at `root`; none where there is none.

    Raises OSError where a file may not be read.
    """
    configuration = root / CONFIGURATION
    if configuration.is_file():
        yield from _in_file(configuration, "")
    for records in RECORDS:
        for target in sorted((root / records).glob(f"{IQN_PREFIX}*")):
            for record in sorted(path for path in target.rglob("*") if path.is_file()):
                yield from _in_file(record, target.name)
    for session in sorted((root / SESSIONS).glob("session*")):
        name = (session / "targetname").read_text().strip()
        timeout = (session / "recovery_tmo").read_text().strip()
        if name.startswith(IQN_PREFIX):
            # The kernel says "off" where it waits for ever.
            yield TimeoutSeen(str(session), -1 if timeout == "off" else int(timeout), name)


def _in_file(path: Path, target_name: str) -> Iterator[TimeoutSeen]:
    """The last one counts, as in open-iscsi."""
    if found := SETTING.findall(path.read_text(errors="replace")):
        yield TimeoutSeen(str(path), int(found[-1]), target_name)
