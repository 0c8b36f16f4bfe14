"""The directory of a volume, and the file that says what it holds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cstor_cli.cluster_file import (
    ClusterFile,
    Home,
    ReplicaPlace,
    load,
    locked,
    ready_facts,
    save,
)
from cstor_core.errors import CorruptError, InputError, UnavailableError

CLUSTER = ClusterFile(
    volume="vol1",
    volume_uuid="d2b7a3d0-0c1c-4b43-9d9c-8a1d5b0e3f10",
    size_bytes=1 << 30,
    logical_block_bytes=512,
    founded=True,
    portal="127.0.0.1:3260",
    portal_is_set=False,
    replicas=(ReplicaPlace("0f0e", "127.0.0.1:7778", "127.0.0.1:9501"),),
)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    home = Home.at(tmp_path)
    save(home, CLUSTER)
    assert load(home) == CLUSTER
    save(home, replace(CLUSTER, portal="127.0.0.1:3261"))
    assert load(home).portal == "127.0.0.1:3261"
    assert [path.name for path in tmp_path.iterdir()] == ["cstor.json"]


def test_what_is_as_it_always_was_is_not_said(tmp_path: Path) -> None:
    home = Home.at(tmp_path)
    save(home, CLUSTER)
    (place,) = json.loads(home.file.read_text())["replicas"]
    assert place.keys() == {"uuid", "address", "metrics"}
    witness = replace(CLUSTER.replicas[0], witness=True)
    save(home, replace(CLUSTER, replicas=(*CLUSTER.replicas, witness)))
    assert load(home).replicas[1].witness


@pytest.mark.parametrize("where", ["volume", "replica"])
def test_a_file_of_a_later_version_is_refused_with_what_is_not_known(
    tmp_path: Path, where: str
) -> None:
    home = Home.at(tmp_path)
    save(home, CLUSTER)
    document = json.loads(home.file.read_text())
    (document if where == "volume" else document["replicas"][0])["colour"] = "blue"
    home.file.write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"does not know \(colour\): use the version that wrote"):
        load(home)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": 1}',
        '{"format": 1, "replicas": 3}',
        '{"format": 1, "replicas": [3]}',
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    home = Home.at(tmp_path)
    home.file.write_text(text)
    with pytest.raises(CorruptError, match=r"cstor\.json"):
        load(home)


def test_a_later_format_is_refused(tmp_path: Path) -> None:
    home = Home.at(tmp_path)
    home.file.write_text(json.dumps({"format": 2}))
    with pytest.raises(InputError, match="format 2"):
        load(home)


def test_a_directory_without_the_file_holds_no_volume(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no volume"):
        load(Home.at(tmp_path))


def test_a_directory_is_vacant_until_somebody_uses_it(tmp_path: Path) -> None:
    home = Home.at(tmp_path / "data")
    assert home.is_vacant()
    home.path.mkdir()
    assert home.is_vacant()
    (home.path / "cstor.json.new").touch()  # a first start was killed while it wrote this
    assert home.is_vacant()
    (home.path / "other").touch()
    assert not home.is_vacant()


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(InputError):
        Home.at(tmp_path / "data").is_vacant()


def test_two_commands_do_not_work_in_one_directory(tmp_path: Path) -> None:
    home = Home.at(tmp_path)
    with locked(home), pytest.raises(UnavailableError), locked(home, wait_s=0.0):
        raise AssertionError("the lock was given twice")
    with locked(home, wait_s=0.0):
        assert list(tmp_path.iterdir()) == []


def test_a_ready_file_of_another_process_does_not_count(tmp_path: Path) -> None:
    home = Home.at(tmp_path)
    assert ready_facts(home, "target", 17) is None
    home.ready_file("target").parent.mkdir()
    home.ready_file("target").write_text('{"pid": 17, "portal": "127.0.0.1:3260"}')
    assert ready_facts(home, "target", 17) == {"pid": 17, "portal": "127.0.0.1:3260"}
    assert ready_facts(home, "target", 18) is None
