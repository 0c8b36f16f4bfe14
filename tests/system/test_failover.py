"""Two targets of one volume: one serves, the other stands by and takes over."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cstor_target.iscsi.constants import LoginStatus
from tests.system.cluster import IQN_PREFIX
from tests.system.pair import Pair, portals_of, served_by_two
from tests.system.plain_initiator import GOOD, PlainInitiator
from tests.system.processes import kill
from tests.system.tools import HarnessError, cstor_command, run

pytestmark = pytest.mark.system

BLOCK_BYTES = 4096
WAIT_S_MAX = 60.0
BLOCKS = 64
TEST_UNIT_READY = bytes(6)
SET_TARGET_PORT_GROUPS = bytes.fromhex("a40a 00000000 00000008 0000")
SECOND_ACTIVE = bytes.fromhex("00000000 00 00 0002")
CHECK_CONDITION = 2
IN_STANDBY = bytes.fromhex("02 04 0b")
UNIT_ATTENTION = 0x06


class TwoPaths:
    """An initiator with a session to each portal; it uses whichever serves, as multipath does."""

    def __init__(self, portals: list[tuple[str, int]]) -> None:
        self._portals = portals
        self._path: PlainInitiator | None = None
        self.longest_gap_s = 0.0
        self.written: dict[int, bytes] = {}

    def write(self, block: int, stamp: int) -> None:
        """Write a block until some path says GOOD."""
        data, began_s = stamp.to_bytes(8, "little") * (BLOCK_BYTES // 8), time.monotonic()
        while not self._try(block * BLOCK_BYTES, data):
            if time.monotonic() - began_s > WAIT_S_MAX:
                raise HarnessError(f"no path serves: {self._portals}")
            self._portals.append(self._portals.pop(0))
        self.longest_gap_s = max(self.longest_gap_s, time.monotonic() - began_s)
        self.written[block] = data

    def verify(self) -> None:
        """Read back all that was written."""
        path = self._path
        assert path is not None
        for block, data in self.written.items():
            assert path.read(block * BLOCK_BYTES, BLOCK_BYTES) == data, block

    def close(self) -> None:
        """Hang up."""
        if self._path is not None:
            self._path.connection.close()
            self._path = None

    def _try(self, offset: int, data: bytes) -> bool:
        try:
            if self._path is None:
                self._path = PlainInitiator(self._portals[0])
                self._path.ask_for_login(IQN_PREFIX + "test")
                assert self._path.login_status() is LoginStatus.SUCCESS
            while (status := self._path.write(offset, data)) != GOOD:
                if self._path.sense[0] & 0xF != UNIT_ATTENTION:
                    break
        except OSError:
            status = -1
        if status != GOOD:
            self.close()
            time.sleep(0.02)
        return status == GOOD


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Two targets over three replicas; stopped in the end."""
    with served_by_two(tmp_path / "volume") as pair:
        yield pair


@pytest.fixture
def paths(pair: Pair) -> Iterator[TwoPaths]:
    """An initiator that has written."""
    paths = TwoPaths(portals_of(pair))
    for block in range(BLOCKS):
        paths.write(block, block + 1)
    yield paths
    paths.close()


def write_more(paths: TwoPaths, first_stamp: int) -> None:
    """Overwrite half of the blocks, then look at all of them."""
    for block in range(0, BLOCKS, 2):
        paths.write(block, first_stamp + block)
    paths.verify()


def test_one_that_is_killed_is_followed_and_stands_by_when_it_is_started_again(
    pair: Pair, paths: TwoPaths
) -> None:
    for round_, (name, follower) in enumerate((("target", "target-1"), ("target-1", "target"))):
        document = pair.document()
        assert document["target"]["name"] == name
        kill([document["target"]["pid"]])
        write_more(paths, 1000 * (round_ + 1))
        pair.wait_until_served_by(follower)
        pair.start()
        pair.wait_for_standby()
        assert pair.document()["target"]["name"] == follower, "who comes back takes nothing away"
    print(f"longest gap {paths.longest_gap_s:.2f} s")
    assert pair.compare().returncode == 0


def test_one_that_is_drained_is_followed_and_stands_by(pair: Pair, paths: TwoPaths) -> None:
    for round_, follower in enumerate(("target-1", "target")):
        portal = next(iter(pair.document()["standbys"]))["portal"]
        assert portal in pair.drain()
        write_more(paths, 1000 * (round_ + 1))
        pair.wait_until_served_by(follower)
        pair.wait_for_standby()
    print(f"longest gap {paths.longest_gap_s:.2f} s")
    names = [event["name"] for event in pair.events()]
    assert {"leaving", "standing_by", "taking_over", "open"} <= set(names)
    assert pair.compare().returncode == 0


def test_one_that_is_told_to_end_is_followed_at_once(pair: Pair, paths: TwoPaths) -> None:
    os.kill(pair.document()["target"]["pid"], signal.SIGTERM)
    write_more(paths, 1000)
    pair.wait_until_served_by("target-1")
    print(f"longest gap {paths.longest_gap_s:.2f} s")
    assert "no other target serves it" in str(pair.events()), "its lease was given back"


def test_who_stands_by_shows_the_disk_and_no_medium(pair: Pair) -> None:
    portals = portals_of(pair)
    pages = []
    for portal in portals:
        with PlainInitiator(portal) as initiator:
            initiator.ask_for_login(IQN_PREFIX + "test")
            assert initiator.login_status() is LoginStatus.SUCCESS
            pages.append(initiator.receive(bytes.fromhex("1201 80 00ff 00"), 255))
            initiator.send(TEST_UNIT_READY, b"")
            status = initiator.send(TEST_UNIT_READY, b"")
            groups = initiator.receive(bytes.fromhex("a30a 00000000 000000ff 0000"), 255)
        if portal == portals[0]:
            assert (status, groups[4:8]) == (GOOD, bytes.fromhex("00 85 0001"))
        else:
            assert (initiator.sense, groups[4:8]) == (IN_STANDBY, bytes.fromhex("02 85 0002"))
    assert pages[0] == pages[1], "it is the same disk"


def test_an_initiator_without_a_way_to_the_one_that_serves_has_the_other_one_serve(
    pair: Pair,
) -> None:
    """SET TARGET PORT GROUPS, as a host's multipath sends it when its active path is lost."""
    _, portal = portals_of(pair)
    with PlainInitiator(portal) as initiator:
        initiator.ask_for_login(IQN_PREFIX + "test")
        assert initiator.login_status() is LoginStatus.SUCCESS
        initiator.send(TEST_UNIT_READY, b"")
        deadline = time.monotonic() + WAIT_S_MAX
        while initiator.send(TEST_UNIT_READY, b"") != GOOD:
            assert initiator.send(SET_TARGET_PORT_GROUPS, SECOND_ACTIVE) in (GOOD, CHECK_CONDITION)
            assert time.monotonic() < deadline, "the volume stays where it was"
            time.sleep(0.5)
        initiator.write_until_good()
    pair.wait_until_served_by("target-1")
    names = [event["name"] for event in pair.events()]
    assert names.index("wanted") < names.index("taking_over")


def test_logins_are_sent_to_the_successor_where_the_operator_says_so(pair: Pair) -> None:
    old, new = portals_of(pair)
    pair.drain("--redirect")
    pair.wait_until_served_by("target-1")
    with PlainInitiator(old) as initiator:
        initiator.ask_for_login(IQN_PREFIX + "test")
        assert initiator.login_status() is LoginStatus.TARGET_MOVED_TEMPORARILY
    pair.wait_for_standby()
    pair.drain()
    pair.wait_until_served_by("target")
    for portal in (old, new):
        with PlainInitiator(portal) as initiator:
            initiator.ask_for_login(IQN_PREFIX + "test")
            assert initiator.login_status() is LoginStatus.SUCCESS


def test_a_drain_to_nobody_is_refused_and_nothing_happens(pair: Pair) -> None:
    command = [cstor_command(), "target", "drain", f"--dir={pair.directory}"]
    other = run([*command, "--to", "192.0.2.1:3260"], timeout_s=WAIT_S_MAX)
    assert other.returncode == 1
    assert "no target stands by for volume test with the portal 192.0.2.1:3260" in other.stdout
    kill([pair.document()["standbys"][0]["pid"]])
    deadline = time.monotonic() + WAIT_S_MAX
    while "(standing by: none)" not in (said := run(command, timeout_s=WAIT_S_MAX)).stdout:
        assert time.monotonic() < deadline, said.stdout
    assert pair.document()["status"] == "healthy"


def test_a_volume_in_one_process_has_no_second_target(tmp_path: Path) -> None:
    command = [cstor_command(), "up", f"--dir={tmp_path / 'one'}", "--replicas=1", "--targets=2"]
    said = run(command, timeout_s=WAIT_S_MAX)
    assert said.returncode == 2
    assert "use two replicas or more" in said.stdout
    assert not (tmp_path / "one").exists()
