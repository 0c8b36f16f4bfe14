"""`cstor doctor` on a real deployment: silent where all is well, and on what it finds."""

from __future__ import annotations

import base64
import tarfile
from pathlib import Path
from typing import Any

import pytest
import typer

from cstor_cli.doctor import command, gathering
from cstor_cli.doctor.gathering import Wanted
from cstor_cli.doctor.picture import Picture
from cstor_core.errors import InputError
from cstor_core.secure.roles import Role
from tests.scenario.doctor.deployment import Deployment, doctor, looked
from tests.scenario.doctor.faults import PREFIX_OF_FEW_FILES, another_version, set_by
from tests.scenario.secure.certificates import Certificates
from tests.scenario.target.daemon import NOBODY
from tests.scenario.target.test_chap import NAME, OWN, OWN_NAME, SECRET, setting
from tests.scenario.target.test_forced import cstor
from tests.unit.cli.test_doctor_files import IQN, record


def test_nothing_is_said_of_a_deployment_that_is_well(three: Deployment) -> None:
    said = doctor(*three.control)
    assert said["findings"] == []
    assert said["seen"]["targets"] == [three.control[1]]
    assert said["seen"]["volumes"] == ["vol1"]
    assert said["seen"]["replicas"] == list(three.addresses.values())
    assert cstor("doctor", *three.control).startswith("nothing is wrong; looked at: ")


def test_a_replica_that_dies_is_found_and_what_is_wrong_with_the_next_process(
    three: Deployment, tmp_path: Path
) -> None:
    address = three.addresses["pool-1"]
    three.replicas["pool-1"].end()
    said = doctor(*three.control)
    (finding,) = said["findings"]
    assert (finding["check"], finding["severity"]) == ("replica_dead", "error")
    assert (finding["kind"], finding["name"], finding["volume"]) == ("replica", address, "vol1")
    assert address in cstor("doctor", *three.control, code=1)

    clock = tmp_path / "clock"
    three.start_replica(
        "pool-1",
        code=set_by(clock),
        environment=another_version(tmp_path, "0.2.0"),
        prefix=PREFIX_OF_FEW_FILES,
    )
    three.started("pool-1")
    three.in_sync()
    process = [("versions_apart", "versions"), ("open_files", address)]
    assert three.looked() == process
    clock.write_text("1.5")
    assert three.looked() == [("clock_stepped", address), *process]
    clock.write_text("-3600")
    assert three.looked() == [("clock_apart", address), *process]

    three.replicas["pool-1"].end()
    three.start_replica("pool-1")
    three.started("pool-1")
    three.in_sync()
    assert three.looked() == []


def test_certificates_and_initiators_of_the_host_are_looked_at(
    three: Deployment, tmp_path: Path
) -> None:
    issued = Certificates(tmp_path)
    old = issued.issue("old", (Role.REPLICA, "a"), age_days=31)
    soon = issued.issue("soon", (Role.REPLICA, "b"), age_days=28)
    short = record(tmp_path, IQN, 15)
    assert three.looked(certificates=[old, soon, issued.replica()], root=tmp_path) == [
        ("certificate_expired", str(old / "tls.crt")),
        ("certificate_expires", str(soon / "tls.crt")),
        ("initiator_timeout", str(short)),
    ]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"directory": Path("/nowhere")}, "holds no volume"),
        ({"target": ["node-a"]}, "is not HOST:PORT"),
        ({"target": [NOBODY], "certs": [Path("/nowhere")]}, "has no certificates"),
        ({"target": [NOBODY], "bundle": Path("/nowhere/bundle")}, "cannot be made"),
    ],
)
def test_wrong_input_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        command.doctor(**wrong)


@pytest.mark.parametrize("has_directory", [False, True])
def test_where_nothing_is_named_the_usual_places_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_directory: bool
) -> None:
    if has_directory:
        (tmp_path / "cstor-data").mkdir()
        (tmp_path / "cstor-data" / "cstor.json").write_text("no JSON")
    seen: list[Wanted] = []

    def gathered(wanted: Wanted) -> Picture:
        seen.append(wanted)
        return Picture(0.0, "")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gathering, "gather", gathered)
    with pytest.raises(typer.Exit):
        command.doctor()
    (wanted,) = seen
    directory = Path("cstor-data") if has_directory else None
    assert wanted.directory == directory
    assert wanted.targets == ([] if has_directory else ["127.0.0.1:7777"])


def test_wrong_input_has_an_exit_code_of_its_own_and_leaves_no_bundle(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.tar.gz"
    words = ("--dir", "/nowhere", "--bundle", str(bundle))
    assert "holds no volume" in cstor("doctor", *words, code=2)
    assert not bundle.exists()


def test_addresses_of_hosts_that_nobody_knows_are_found() -> None:
    at = "host.invalid:7778"
    assert looked(targets=[at], replicas=[at]) == [("wrong_address", at)] * 2


def test_a_target_that_is_not_there_is_found() -> None:
    assert looked(targets=[NOBODY]) == [("target_dead", NOBODY)]


def test_no_secret_of_the_deployment_is_in_a_bundle(three: Deployment, tmp_path: Path) -> None:
    set_secret = setting(tmp_path, three.targets[-1].facts())
    set_secret(NAME, SECRET, "--volume", "vol1")
    set_secret(OWN_NAME, OWN, "--volume", "vol1", "--of-target")
    record(tmp_path, IQN, 120)
    certificates = Certificates(tmp_path).replica()
    key = (certificates / "tls.key").read_bytes()
    bundle = tmp_path / "bundle.tar.gz"
    words = ("--certs", str(certificates), "--initiator-root", str(tmp_path))
    cstor("doctor", *three.control, *words, "--bundle", str(bundle))
    said = b""
    with tarfile.open(bundle) as archive:
        for entry in archive.getmembers():
            file = archive.extractfile(entry)
            assert file is not None
            said += entry.name.encode() + b"\n" + file.read()
    assert b"cstor_volume_reads_total" in said
    assert b"cstor_replica_pool_size_bytes" in said
    assert b'"chap_set"' in said
    assert str(certificates / "tls.crt").encode() in said
    for plain in (SECRET.encode(), OWN.encode(), b"hidden", key.splitlines()[1]):
        for form in (plain, plain.hex().encode(), base64.b64encode(plain)):
            assert form not in said
