"""What `cstor doctor` says: a document for scripts, sentences for people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from cstor_cli.doctor.findings import Finding
from cstor_cli.doctor.picture import Picture, volumes
from cstor_cli.printing import console

FORMAT = 1
"""Fields are added to it, and none is taken away or means something else, as long as it stays."""

COUNTED = {"initiator": "settings of the initiator", "verified": "copies verified"}


def document(picture: Picture, findings: Sequence[Finding]) -> dict[str, Any]:
    """All of it; docs/how-to/doctor.md says what the fields mean."""
    return {
        "format": FORMAT,
        "looked_at": datetime.fromtimestamp(picture.now_s, UTC).isoformat(timespec="seconds"),
        "is_well": not findings,
        "findings": [finding.document() for finding in findings],
        "seen": {
            "targets": [target.daemon.address for target in picture.targets],
            "volumes": [volume.name for volume in volumes(picture)],
            "replicas": list(picture.pools),
            "certificates": [certificate.where for certificate in picture.certificates],
            "initiator": [timeout.where for timeout in picture.timeouts],
            "verified": [f"{copy.volume} at {copy.address}" for copy in picture.copies],
        },
        "unseen": list(picture.unseen),
    }


def print_findings(picture: Picture, findings: Sequence[Finding]) -> None:
    """The same for a person: each finding, and what follows from it."""
    for finding in findings:
        console.print(
            f"{finding.severity.upper():7} {finding.subject} ({finding.check}): {finding.problem}\n"
            f"        {finding.remedy}",
            markup=False,
        )
    seen = document(picture, findings)["seen"]
    what = ", ".join(_counted(len(each), name) for name, each in seen.items() if each)
    words = f"{len(findings)} found" if findings else "nothing is wrong"
    console.print(f"{words}; looked at: {what or 'nothing'}", markup=False)
    for sentence in picture.unseen:
        console.print(f"not looked at: {sentence}", markup=False)


def _counted(count: int, name: str) -> str:
    """How many of something, by the names of the document."""
    if name in COUNTED:
        return f"{count} {COUNTED[name]}"
    return f"{count} {name.removesuffix('s') if count == 1 else name}"
