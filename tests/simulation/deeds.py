"""What may go wrong, deed by deed: each has a name and plain values, and does the same again.

A deed that cannot be done now, or that would take more than the contract survives, is not done.
Only `lose_too_much`, `spoil_too_much`, `rot_all` and `force` take more; from then on the volume may
refuse, or say that something may be gone, and that is all it may do.
"""

from __future__ import annotations

import contextvars
import random

from cstor_core.errors import CstorError
from cstor_core.units import BLOCK_BYTES
from tests.simulation.changes import Changes
from tests.simulation.clients import Clients
from tests.simulation.clone_orders import LARGER
from tests.simulation.clones import Clones
from tests.simulation.cluster import BLOCKS, Cluster, Target
from tests.simulation.copying import Copying
from tests.simulation.machines import Machine
from tests.simulation.moves import Moves
from tests.simulation.oracle import NEVER
from tests.simulation.sanitizing import Sanitizing
from tests.simulation.scrubbing import Scrubbing
from tests.simulation.snapshots import Snapshots
from tests.simulation.standbys import Standbys

Value = str | int | float
Deed = tuple[str, tuple[Value, ...]]
"""Its name and arguments."""
NEWEST = -1
"""Instead of the number of a snapshot."""
LOST = -1
"""Instead of the number of a machine: the first whose replica is lost for good."""
FIRST, LAST = "first target", "last target"
"""Of those that somebody may still talk to."""


class Deeds:
    """Does them to one cluster."""

    def __init__(self, cluster: Cluster, clients: Clients) -> None:
        self._cluster = cluster
        self._clients = clients
        self.snapshots = Snapshots(clients)
        self.clones = Clones(clients, self.snapshots)
        self.changes = Changes(clients)
        self.moves = Moves(clients, self.changes, self.clones)
        self.scrubbing = Scrubbing(cluster, clients)
        self.sanitizing = Sanitizing(clients)
        self.standbys = Standbys(clients)
        self._copying = Copying(clients)
        self.no_target_before_s = 0.0
        """Whoever runs the target starts none until then."""
        self.too_much = ""
        """What was done that the contract does not survive."""
        self.too_much_s = 0.0
        self._nobody = contextvars.copy_context()
        """What is done in it goes on whoever dies."""
        self._is_over = False
        self._waiting: dict[str, list[tuple[float, Deed]]] = {}
        """What waits for a moment of each kind."""
        cluster.on_moment = self._come

    def do(self, name: str, arguments: tuple[Value, ...]) -> str:
        """Do it; a few words on what was done, or nothing where it was not."""
        doers = (self, self.standbys, self._copying)
        return str(next(getattr(one, name) for one in doers if hasattr(one, name))(*arguments))

    def when_open(self, after_s: float, name: str, *arguments: Value) -> str:
        """Do another deed so long after the next target has opened the volume."""
        return self._wait("open", after_s, (name, arguments))

    def when_changing(self, after_s: float, name: str, *arguments: Value) -> str:
        """Do another deed so long after the next change of the configuration is ordered; with no
        time, before anybody is sent it.
        """
        return self._wait("change", after_s, (name, arguments))

    def when_changing_a_clone(self, after_s: float, name: str, *arguments: Value) -> str:
        """The same of the next change of the configuration of a clone."""
        return self._wait("clone change", after_s, (name, arguments))

    def when_rebuilding(self, after_s: float, name: str, *arguments: Value) -> str:
        """Do another deed so long after the next member has begun to be rebuilt."""
        return self._wait("rebuild_started", after_s, (name, arguments))

    def _wait(self, moment: str, after_s: float, deed: Deed) -> str:
        self._waiting.setdefault(moment, []).append((after_s, deed))
        name, arguments = deed
        return f"{name} {arguments} after {after_s} s"

    def end(self) -> None:
        """Do nothing of what is planned any more."""
        self._waiting.clear()
        self._is_over = True

    def _come(self, moment: str) -> None:
        for after_s, (name, arguments) in self._waiting.pop(moment, ()):
            context = self._nobody.copy()
            if after_s:
                self._cluster.loop.call_later(
                    after_s, self._do_then, name, arguments, context=context
                )
            else:
                context.run(self._do_then, name, arguments)

    def _do_then(self, name: str, arguments: tuple[Value, ...]) -> None:
        said = "" if self._is_over else self.do(name, arguments)
        self._cluster.note(f"{name}: {said or 'not now'}")

    def kill_replica(self, at: int) -> str:
        """End a daemon, as SIGKILL does."""
        machine = self._machine(at)
        if not machine.is_up:
            return ""
        machine.kill()
        return machine.name

    def start_replica(self, at: int) -> str:
        """Start a daemon that does not run, or one again that could not open its replica; it tries
        that again by itself where there was no space.
        """
        machine = self._machine(at)
        if machine.is_broken or (machine.is_up and not machine.could_not_open):
            return ""
        machine.kill()
        machine.start()
        return machine.name

    def pause_replica(self, at: int, pause_s: float) -> str:
        """Let a daemon stand still."""
        process = self._machine(at).process
        if process is None or process.is_paused:
            return ""
        process.pause()
        self._cluster.loop.call_later(pause_s, process.go_on)
        return f"{process.name} for {pause_s} s"

    def pause_target(self, which: str, pause_s: float) -> str:
        """Let a target stand still."""
        target = self._target(which)
        if target is None or target.process is None or target.process.is_paused:
            return ""
        target.process.pause()
        self._cluster.loop.call_later(pause_s, target.process.go_on)
        return f"{target.name} for {pause_s} s"

    def kill_target(self, which: str, away_s: float) -> str:
        """End a target, as SIGKILL does; another one is started some time later."""
        target = self._target(which)
        if target is None:
            return ""
        self._clients.targets.remove(target)
        target.kill()
        self.no_target_before_s = self._cluster.loop.time() + away_s
        return f"{target.name}, away for {away_s} s"

    def close_target(self, which: str, away_s: float) -> str:
        """Stop a target cleanly; another one is started when it has ended."""
        target = self._target(which)
        if target is None:
            return ""
        target.close()
        self.no_target_before_s = self._cluster.loop.time() + away_s
        return f"{target.name}, away for {away_s} s"

    def start_target(self) -> str:
        """Start one, beside another one perhaps, of which nobody knows whether it still runs."""
        if len(self._clients.targets) > 1:
            return ""
        self._clients.targets.append(self._cluster.start_target())
        return self._clients.targets[-1].name

    def break_connection(self, number: int) -> str:
        """Break one, with what is in it."""
        return self._cluster.network.break_one(number)

    def cut(self, source: Value, destination: Value) -> str:
        """Let nothing pass any more, one way."""
        source_name, destination_name = self._name(source), self._name(destination)
        if source_name == destination_name or not (source_name and destination_name):
            return ""
        self._cluster.network.cut(source_name, destination_name)
        return f"{source_name} to {destination_name}"

    def join(self, source: Value, destination: Value) -> str:
        """Let it pass again."""
        source_name, destination_name = self._name(source), self._name(destination)
        self._cluster.network.join(source_name, destination_name)
        return f"{source_name} to {destination_name}"

    def heal_network(self) -> str:
        """Let everything pass, and fast."""
        self._cluster.network.heal()
        return "all"

    def slow_link(self, at: int, factor: float) -> str:
        """Let what a machine sends and gets take longer."""
        machine = self._machine(at)
        self._cluster.network.slow[machine.name] = factor
        return f"{machine.name} by {factor}"

    def slow_disk(self, at: int, factor: float) -> str:
        """Let flushes and reads take longer."""
        machine = self._machine(at)
        machine.disk.faults.slow = factor
        return f"{machine.name} by {factor}"

    def fill_disk(self, at: int, full_s: float) -> str:
        """Leave no space for a while."""
        machine = self._machine(at)
        faults = machine.disk.faults
        if faults.is_full:
            return ""
        faults.is_full = True

        def empty() -> None:
            faults.is_full = False

        self._cluster.loop.call_later(full_s, empty)
        return f"{machine.name} for {full_s} s"

    def fail_reads(self, at: int, failing_s: float) -> str:
        """Let reads of a disk end with EIO for a while."""
        machine = self._machine(at)
        faults = machine.disk.faults
        if faults.reads_fail or not (machine.is_up or self._may_lose(machine)):
            return ""
        faults.reads_fail = True
        self.scrubbing.have_failed_reads.add(machine.name)

        def read_again() -> None:
            faults.reads_fail = False

        self._cluster.loop.call_later(failing_s, read_again)
        return f"{machine.name} for {failing_s} s"

    def fail_flush(self, at: int) -> str:
        """Let a disk fail for good: its replica is given up, and what it had is lost.

        Beside a witness it is that one's: another one fails later, and may be the only copy by
        then.
        """
        machine = self._cluster.witness or self._machine(at)
        if not machine.is_up or machine.may_have_lost or not self._may_lose(machine):
            return ""
        machine.disk.faults.flush_fails = machine.is_broken = True
        return machine.name

    def wipe(self, at: int) -> str:
        """Put an empty disk in a disk's place, with a new replica on it."""
        machine = self._machine(at)
        if machine.may_have_lost or not self._may_lose(machine):
            return ""
        machine.wipe()
        return machine.name

    def lose_power(self, at: int, seed: int) -> str:
        """Let a machine lose power, and of what was not flushed a part that the seed decides."""
        machine = self._machine(at)
        if machine.may_have_lost or not self._may_lose(machine):
            return ""
        machine.lose_power(seed)
        return machine.name

    def lose_all_power(self, seed: int) -> str:
        """Let all lose power: without a write cache whatever was answered is on stable storage."""
        if self._cluster.write_cache:
            return ""
        machines = [machine for machine in self._cluster.used if not machine.is_broken]
        for number, machine in enumerate(machines):
            machine.lose_power(seed + number)
            machine.start()
        return f"{len(machines)} machines"

    def rot(self, seed: int) -> str:
        """Flip a bit, on one machine only: the others have good copies."""
        machine = self._cluster.founders[-1]
        if not machine.is_up or not self._may_lose(machine) or self._cluster.witness is not None:
            return ""
        machine.has_rotted = True
        where = machine.disk.rot(random.Random(seed))
        return where and f"{machine.name}{where}"

    def lie_about_write(self, what: str) -> str:
        """Let the next write of blocks be `lost` or `misdirected`, on that one machine as well."""
        machine = self._cluster.founders[-1]
        if not machine.is_up or not self._may_lose(machine) or self._cluster.witness is not None:
            return ""
        machine.has_rotted = True
        machine.disk.faults.next_writes = what
        return f"{what} on {machine.name}"

    def jump(self, who: Value, ahead_s: float) -> str:
        """Let a clock jump ahead, as when its machine was asleep."""
        clock = self._machine(who).clock if isinstance(who, int) else None
        if clock is None:
            target = self._target(str(who))
            if target is None:
                return ""
            clock = target.clock
        clock.ahead_s += ahead_s
        return f"{self._name(who)} by {ahead_s} s"

    def lose_too_much(self, seed: int) -> str:
        """Let all lose power though the write cache is on: acknowledged writes may be gone."""
        if not self._cluster.write_cache:
            return ""
        self.too_much = "power"
        for number, machine in enumerate(self._cluster.used):
            if not machine.is_broken:
                machine.lose_power(seed + number)
        return f"{len(self._cluster.used)} machines"

    def spoil_too_much(self, seed: int) -> str:
        """Wipe so many that no quorum is left."""
        if len(self._cluster.configurations.possible()) > 1:
            return ""
        self.too_much, self.too_much_s = "disks", self._cluster.loop.time()
        machines = self._cluster.data_members
        for machine in random.Random(seed).sample(machines, self._cluster.may_lose + 1):
            machine.wipe()
        return f"{self._cluster.may_lose + 1} machines"

    def rot_all(self, seed: int) -> str:
        """Damage many blocks everywhere: of some no good copy may be left."""
        chance = random.Random(seed)
        self.too_much = "rot"
        for machine in self._cluster.used:
            if machine.is_witness:
                continue
            machine.has_rotted = True
            for _ in range(30):
                machine.disk.rot(chance)
        return "all machines"

    def force(self) -> str:
        """Let somebody open the volume with what answers, where that is no quorum.

        Nobody does so where those left out could make a quorum without it.
        """
        cluster, target = self._cluster, self._target(LAST)
        left = [machine for machine in cluster.members if not machine.is_broken]
        up = [machine for machine in left if machine.is_up]
        is_open = target is None or target.engine is None or target.engine.serving
        if (
            (is_open or len(left) > cluster.quorum or len(up) >= cluster.quorum)
            or len(cluster.configurations.possible()) > 1
            or cluster.forced
        ):
            return ""
        assert target is not None
        assert target.process is not None
        assert target.engine is not None
        try:
            sentence = target.engine.may_be_lost([])
        except CstorError:
            return ""
        self.too_much = self.too_much or "forced"
        target.process.call(target.engine.force, [])
        return f"{target.name}: {sentence}"

    def snapshot(self, number: int, tries: float = NEVER) -> str:
        """Let somebody take a snapshot."""
        name = f"snapshot-{number}"
        return name if self.snapshots.take(name, tries=tries) else ""

    def delete_snapshot(self, number: int, tries: float = NEVER) -> str:
        """Let somebody delete a snapshot: that of a number, or the newest one there is."""
        name = self.snapshots.newest() if number == NEWEST else f"snapshot-{number}"
        return name if self.snapshots.delete(name, tries=tries) else ""

    def revert(self, number: int) -> str:
        """Let somebody revert to a snapshot: that of a number, or the newest one there is."""
        name = self.snapshots.newest() if number == NEWEST else f"snapshot-{number}"
        return name if self.snapshots.revert(name) else ""

    def sanitize(self) -> str:
        """Let somebody erase all that the volume holds."""
        return "all blocks" if self.sanitizing.ask() else ""

    def clone(self, number: int, serve_s: float) -> str:
        """Let somebody clone a snapshot, that of a number or the newest one there is, and use the
        clone for a while, or not at all.
        """
        name = self.snapshots.newest() if number == NEWEST else f"snapshot-{number}"
        return self.clones.clone(name, serve_s)

    def delete_clone(self, number: int) -> str:
        """Let somebody delete a clone by its number, from 0 on."""
        return self.clones.delete(number)

    def kill_clone_target(self) -> str:
        """End a target that serves a clone and nothing else; another one is started."""
        return self.clones.kill_target()

    def change_clone(self, kind: str, at: int) -> str:
        """Let somebody `add`, `remove` or `replace` a member of the clone that is served."""
        clone = self.clones.served
        if clone is None or clone.changes is None:
            return ""
        said = clone.changes.change(kind, at)
        return said and f"{clone.name}: {said}"

    def snapshot_clone(self, number: int) -> str:
        """Let somebody take a snapshot of it."""
        clone, name = self.clones.served, f"of-a-clone-{number}"
        if clone is None or clone.snapshots is None or not clone.snapshots.take(name):
            return ""
        return f"{clone.name}: {name}"

    def delete_clone_snapshot(self) -> str:
        """Let somebody delete the newest snapshot of it."""
        snapshots = self.clones.served and self.clones.served.snapshots
        name = snapshots.newest() if snapshots else ""
        return name if snapshots and snapshots.delete(name) else ""

    def revert_clone(self) -> str:
        """Let somebody revert it to its newest snapshot."""
        snapshots = self.clones.served and self.clones.served.snapshots
        name = snapshots.newest() if snapshots else ""
        return name if snapshots and snapshots.revert(name) else ""

    def grow_clone(self, blocks: int) -> str:
        """Let somebody make it larger, and larger than any volume."""
        clone = self.clones.served
        if clone is None or clone.snapshots is None:
            return ""
        clone.snapshots.grow((BLOCKS + LARGER + blocks) * BLOCK_BYTES)
        return f"{clone.name} by {LARGER + blocks} blocks"

    def grow(self, blocks: int) -> str:
        """Let somebody make the volume larger by so many blocks than it was at first."""
        self.snapshots.grow((BLOCKS + blocks) * BLOCK_BYTES)
        return f"by {blocks} blocks"

    def add(self, at: int) -> str:
        """Let somebody add a replica."""
        machine = self._machine(at)
        return machine.name if self.changes.add(machine) else ""

    def remove(self, at: int) -> str:
        """Let somebody remove one."""
        machine = self._machine(at)
        return machine.name if self.changes.remove(machine) else ""

    def replace(self, at: int, fresh: int) -> str:
        """Let somebody put one in another one's place: that of a number, or one that is lost."""
        lost = [machine for machine in self._cluster.members if machine.is_broken]
        if at == LOST and not lost:
            return ""
        machine, other = lost[0] if at == LOST else self._machine(at), self._machine(fresh)
        is_begun = self.changes.replace(machine, other)
        return f"{machine.name} by {other.name}" if is_begun else ""

    def move(self, at: int, how: str) -> str:
        """Let a daemon come back under another address, once somebody starts it."""
        machine = self._machine(at)
        address = self.moves.move(machine, how)
        return f"{machine.name} to {address}, {how}" if address else ""

    def swap(self, at: int, other: int, how: str) -> str:
        """Let two daemons come back under each other's addresses, once somebody starts them."""
        machine, another = self._machine(at), self._machine(other)
        if not self.moves.swap(machine, another, how):
            return ""
        return f"{machine.name} and {another.name}, {how}"

    def scrub(self) -> str:
        """Let somebody ask for a scrub."""
        return self.scrubbing.ask()

    def _machine(self, at: Value) -> Machine:
        return self._cluster.machines[int(at)]

    def _target(self, which: str) -> Target | None:
        targets = self._clients.targets
        return targets[0 if which == FIRST else -1] if targets else None

    def _name(self, who: Value) -> str:
        """The name of a machine by its number, or of a target by which it is."""
        if isinstance(who, str):
            target = self._target(who)
            return target.name if target is not None else ""
        return self._machine(who).name

    def _may_lose(self, one: Machine) -> bool:
        """Whether a machine may be lost, or is already, without too many being lost at a time."""
        if self._cluster.witness is not None and not one.is_witness:
            return any(
                self._cluster.has_everything(other)
                for other in self._cluster.data_members
                if other is not one
            )
        configurations = self._cluster.configurations
        lost = [other.name for other in self._cluster.used if other.may_have_lost or other is one]
        return configurations.survive(lost)
