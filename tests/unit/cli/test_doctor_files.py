"""What `cstor doctor` reads on this host, and the bundle that it writes."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from cstor_cli.doctor.bundle import new_file, write_bundle
from cstor_cli.doctor.certificates import certificate_files, certificates_in
from cstor_cli.doctor.initiators import timeouts
from cstor_cli.doctor.picture import CertificateSeen, TimeoutSeen, is_local
from cstor_cli.doctor.volume_checks import DAY_S
from cstor_core.errors import InputError
from tests.scenario.secure.certificates import Certificates
from tests.unit.cli.pictures import REPLICAS, healthy

IQN = "iqn.2016-09.com.openebs.cstor:vol1"
SETTING = "node.session.timeo.replacement_timeout"


def record(directory: Path, target: str, seconds: int) -> Path:
    """A node record, as open-iscsi keeps it."""
    file = directory / "etc/iscsi/nodes" / target / "127.0.0.1,3260,1" / "default"
    file.parent.mkdir(parents=True)
    file.write_text(f"# BEGIN RECORD\nnode.session.auth.password = hidden\n{SETTING} = {seconds}\n")
    return file


def test_records_sessions_and_the_configuration_of_the_initiator_are_seen(tmp_path: Path) -> None:
    ours = record(tmp_path, IQN, 20)
    record(tmp_path, "iqn.2001-04.com.example:other", 5)
    configuration = tmp_path / "etc/iscsi/iscsid.conf"
    configuration.write_text(f"# {SETTING} = 3\n{SETTING} = 120\nnode.startup = manual\n")
    sessions = tmp_path / "sys/class/iscsi_session"
    for number, (name, seconds) in enumerate([(IQN, "15"), (IQN, "off"), ("iqn.x:other", "1")]):
        session = sessions / f"session{number}"
        session.mkdir(parents=True)
        (session / "targetname").write_text(f"{name}\n")
        (session / "recovery_tmo").write_text(f"{seconds}\n")
    assert list(timeouts(tmp_path)) == [
        TimeoutSeen(str(configuration), 120),
        TimeoutSeen(str(ours), 20, IQN),
        TimeoutSeen(str(sessions / "session0"), 15, IQN),
        TimeoutSeen(str(sessions / "session1"), -1, IQN),
    ]


def test_a_host_without_an_initiator_has_no_settings_of_one(tmp_path: Path) -> None:
    assert list(timeouts(tmp_path)) == []


def test_all_certificates_of_a_directory_are_seen_and_no_key(tmp_path: Path) -> None:
    directory = Certificates(tmp_path).replica("a")
    seen = [each for file in certificate_files(directory) for each in certificates_in(file)]
    assert [(Path(each.where).name, each.subject) for each in seen] == [
        ("ca.crt", "CN=authority"),
        ("tls.crt", "CN=replica-a"),
    ]
    lives_s = [each.not_after_s - each.not_before_s for each in seen]
    assert [int(life_s // DAY_S) for life_s in lives_s] == [4000, 30]
    bundled = tmp_path / "both.pem"
    bundled.write_bytes(b"".join(file.read_bytes() for file in certificate_files(directory)))
    assert [each.subject for each in certificates_in(bundled)] == [each.subject for each in seen]


def test_what_is_no_certificate_says_why(tmp_path: Path) -> None:
    file = tmp_path / "tls.crt"
    file.write_text("-----BEGIN CERTIFICATE-----\nrot\n-----END CERTIFICATE-----\n")
    (seen,) = certificates_in(file)
    assert seen.reason
    with pytest.raises(InputError, match="has no certificates"):
        certificate_files(tmp_path / "absent")


def test_a_bundle_has_all_that_was_seen_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    picture = replace(
        healthy(),
        timeouts=[TimeoutSeen("session1", 20, IQN)],
        certificates=[CertificateSeen("tls.crt", "CN=a", 0.0, 1.0)],
    )
    with new_file(tmp_path / "bundle.tar.gz") as file:
        write_bundle(file, picture, [], None)
    assert (tmp_path / "bundle.tar.gz").stat().st_mode & 0o777 == 0o600
    contents = {}
    with tarfile.open(tmp_path / "bundle.tar.gz") as archive:
        for entry in archive.getmembers():
            data = archive.extractfile(entry)
            assert data is not None
            contents[entry.name.removeprefix("cstor-bundle/")] = data.read()
    assert json.loads(contents["findings.json"])["seen"]["replicas"] == list(REPLICAS)
    assert json.loads(contents["versions.json"])["node-b:7778"] == "1.2.0"
    assert json.loads(contents["initiator.json"]) == [
        {"where": "session1", "target": IQN, "waits_s": 20}
    ]
    (volume,) = json.loads(contents["target-node-a_7777/volumes.json"])
    assert volume["status"] == "VOLUME_STATUS_HEALTHY"
    pool = json.loads(contents["replica-node-c_7778/pool.json"])
    assert pool["replicas"][0]["replica_uuid"] == "replica-2"
    with pytest.raises(InputError, match="File exists"):
        new_file(tmp_path / "bundle.tar.gz")


def test_a_bundle_has_the_end_of_a_long_log(tmp_path: Path) -> None:
    (tmp_path / "cstor.json").write_text("{}\n")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "target.log").write_text("early\n" + "x" * (1 << 20))
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "chap.json").write_text("hidden")
    file = io.BytesIO()
    write_bundle(file, healthy(), [], tmp_path)
    with tarfile.open(fileobj=io.BytesIO(file.getvalue())) as archive:
        sizes = {entry.name: entry.size for entry in archive.getmembers()}
    assert sizes["cstor-bundle/directory/logs/target.log"] == 1 << 20
    assert sizes["cstor-bundle/directory/cstor.json"] == 3
    assert not any("chap" in name for name in sizes)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        *(("127.0.0.1:1", True), ("[::1]:1", True), ("localhost:1", True)),
        *(("10.0.0.1:1", False), ("node-a:1", False), ("[fd00::1]:1", False)),
    ],
)
def test_addresses_of_the_machine_itself_are_known(address: str, expected: bool) -> None:
    assert is_local(address) is expected
