"""Deployments of many shapes that are well: `cstor doctor` has nothing to say of any of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.scenario.doctor.deployment import Deployment
from tests.scenario.target.daemon import ANY_PORT, until
from tests.scenario.target.test_chap import NAME, SECRET, setting
from tests.scenario.target.test_forced import cstor
from tests.scenario.target.test_one_process import found as found_in
from tests.scenario.target.test_one_process import is_ready
from tests.scenario.target.test_sessions import logged_in
from tests.scenario.target.test_snapshot_diff import write

pytestmark = pytest.mark.long

Shape = Callable[[Deployment], AbstractContextManager[None]]


def served(deployment: Deployment, count: int, *words: str, target: tuple[str, ...] = ()) -> None:
    """So many replicas of vol1, and its target; `words` are for its founding."""
    names = [f"pool-{number}" for number in range(count)]
    for name in names:
        deployment.start_replica(name)
    addresses = deployment.started(*names)
    deployment.create("vol1", addresses, *words)
    deployment.start_target("vol1", addresses, *target)
    deployment.in_sync()


@contextmanager
def in_one_process(deployment: Deployment) -> Iterator[None]:
    pool = ("--pool", str(deployment.directory / "pool"))
    ports = ("--replica-grpc", ANY_PORT, "--replica-metrics", ANY_PORT)
    facts = deployment.start_target("vol1", [], *pool, *ports).facts()
    found_in(facts["replica_grpc"])
    until(lambda: is_ready(facts))
    yield


@contextmanager
def one_replica(deployment: Deployment) -> Iterator[None]:
    served(deployment, 1)
    yield


@contextmanager
def three_replicas(deployment: Deployment) -> Iterator[None]:
    served(deployment, 3)
    yield


@contextmanager
def five_replicas(deployment: Deployment) -> Iterator[None]:
    served(deployment, 5)
    yield


@contextmanager
def with_a_witness(deployment: Deployment) -> Iterator[None]:
    for name in ("pool-0", "pool-1"):
        deployment.start_replica(name)
    deployment.start_replica("witness", "--witness")
    addresses, (witness,) = deployment.started("pool-0", "pool-1"), deployment.started("witness")
    deployment.create("vol1", addresses, "--witness", witness)
    deployment.start_target("vol1", [*addresses, witness])
    deployment.in_sync()
    yield


@contextmanager
def several_volumes(deployment: Deployment) -> Iterator[None]:
    """One of them is served by another target, which nobody has named."""
    names = ("pool-0", "pool-1", "pool-2", "pool-3")
    for name in names:
        deployment.start_replica(name)
    addresses = deployment.started(*names)
    deployment.create("elsewhere", addresses[2:])
    for name in ("vol1", "vol2", "vol3"):
        deployment.create(name, addresses[:3])
    deployment.start_target("vol1", addresses[:3], "--all-volumes")
    cstor_is_serving = ("volume", "list", "-o", "json", *deployment.control)
    until(lambda: cstor(*cstor_is_serving).count('"healthy"') == 3)
    yield


@contextmanager
def with_chap(deployment: Deployment) -> Iterator[None]:
    served(deployment, 3, target=("--require-chap",))
    facts = deployment.targets[-1].facts()
    setting(deployment.directory, facts)(NAME, SECRET, "--volume", "vol1")
    yield


@contextmanager
def native_4096(deployment: Deployment) -> Iterator[None]:
    served(deployment, 3, "--logical-block-size", "4096")
    yield


@contextmanager
def after_a_failover(deployment: Deployment) -> Iterator[None]:
    served(deployment, 3)
    write(deployment.targets[-1].facts()["portal"], 1, 2, 3)
    deployment.targets[-1].end()
    deployment.start_target("vol1", list(deployment.addresses.values()))
    deployment.in_sync()
    yield


@contextmanager
def with_a_standby(deployment: Deployment) -> Iterator[None]:
    """It is asked, and not the one that serves."""
    served(deployment, 3)
    addresses = list(deployment.addresses.values())
    deployment.start_target("vol1", addresses, "--standby")
    yield


@contextmanager
def with_snapshots_and_a_clone(deployment: Deployment) -> Iterator[None]:
    served(deployment, 3, target=("--all-volumes",))
    portal = deployment.targets[-1].facts()["portal"]
    for name in ("a", "b"):
        write(portal, 1, 2, 3)
        cstor("snapshot", "create", name, *deployment.control)
    cstor("clone", "a", "copy", *deployment.control)
    deployment.in_sync()
    cstor("snapshot", "delete", "a", "--yes", "--volume", "vol1", *deployment.control)
    yield


@contextmanager
def with_sessions(deployment: Deployment) -> Iterator[None]:
    served(deployment, 3)
    with logged_in(deployment.targets[-1].facts()) as initiator:
        yield
        initiator.write_until_good()


@contextmanager
def after_changes_of_the_membership(deployment: Deployment) -> Iterator[None]:
    served(deployment, 3)
    deployment.start_replica("pool-3")
    (added,) = deployment.started("pool-3")
    cstor("replica", "add", added, "--same-host", *deployment.control)
    deployment.in_sync()
    yield


SHAPES: tuple[Shape, ...] = (
    *(in_one_process, one_replica, three_replicas, five_replicas, with_a_witness),
    *(several_volumes, with_chap, native_4096, after_a_failover, with_snapshots_and_a_clone),
    *(with_a_standby, with_sessions, after_changes_of_the_membership),
)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_nothing_is_said_of_a_deployment_that_is_well(tmp_path: Path, shape: Shape) -> None:
    with Deployment(tmp_path) as deployment, shape(deployment):
        assert deployment.looked(is_verifying=True) == []
