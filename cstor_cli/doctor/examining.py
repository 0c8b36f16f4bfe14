"""All checks, and what came of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from cstor_cli.doctor import host_checks, member_checks, volume_checks
from cstor_cli.doctor.findings import Finding, Severity
from cstor_cli.doctor.picture import Picture

Check = Callable[[Picture], Iterator[Finding]]

CHECKS: tuple[Check, ...] = (
    volume_checks.targets,
    volume_checks.states,
    member_checks.members,
    member_checks.unclaimed,
    member_checks.same_node,
    volume_checks.addresses,
    volume_checks.space,
    volume_checks.blocks,
    host_checks.clocks,
    host_checks.versions,
    host_checks.open_files,
    host_checks.certificates,
    host_checks.initiators,
)


def examine(picture: Picture) -> list[Finding]:
    """What is wrong, what is graver first."""
    found = [finding for check in CHECKS for finding in check(picture)]
    return sorted(found, key=lambda finding: finding.severity is not Severity.ERROR)
