"""QEMU's and libiscsi's command-line tools see the volume, copy to and from it, and load it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.cluster import Cluster
from tests.system.qemu import Bench, bench, copy, make_random_file, sha256_of_start, size_seen
from tests.system.tools import check, program

pytestmark = pytest.mark.system

MIB = 1024 * 1024
GIB = 1024 * MIB


def test_libiscsi_lists_the_target_and_its_unit(shared_cluster: Cluster) -> None:
    host, port = shared_cluster.portal
    listed = check([program("iscsi-ls"), "-s", f"iscsi://{host}:{port}/"])
    assert f"Target:{shared_cluster.iqn} Portal:{host}:{port},1" in listed
    assert [line.split()[:2] for line in listed.splitlines() if "Lun" in line] == [
        ["Lun:0", "Type:DIRECT_ACCESS"]
    ]
    assert size_seen(shared_cluster.url) == GIB


@pytest.mark.parametrize(
    "size_mib", [64, pytest.param(512, marks=pytest.mark.long)], ids=["short", "whole"]
)
def test_an_image_comes_back_as_it_was_copied_onto_the_volume(
    shared_cluster: Cluster, tmp_path: Path, size_mib: int
) -> None:
    image, back = tmp_path / "image", tmp_path / "back"
    digest = make_random_file(image, size_mib * MIB, seed=size_mib)
    copy(image, shared_cluster.url)
    image.unlink()
    copy(shared_cluster.url, back)
    assert back.stat().st_size == GIB
    assert sha256_of_start(back, size_mib * MIB) == digest
    back.unlink()


def test_a_volume_that_was_stopped_holds_what_was_written(
    shared_cluster: Cluster, tmp_path: Path
) -> None:
    image, back = tmp_path / "image", tmp_path / "back"
    digest = make_random_file(image, 16 * MIB, seed=1)
    copy(image, shared_cluster.url)
    shared_cluster.stop()
    shared_cluster.start()
    copy(shared_cluster.url, back)
    assert sha256_of_start(back, 16 * MIB) == digest
    back.unlink()


@pytest.mark.parametrize("is_write", [False, True], ids=["read", "write"])
@pytest.mark.parametrize("depth", [1, 32])
def test_qemu_loads_the_volume_to_the_end(
    shared_cluster: Cluster, is_write: bool, depth: int
) -> None:
    load = Bench(is_write, request_bytes=4096, depth=depth, count=1000, step_bytes=257 * 4096)
    assert bench(shared_cluster.url, load).duration_s > 0
