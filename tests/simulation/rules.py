"""Rules that are looked at in the moment in which they would be broken.

Some rules have a second keeper, and what others prevent takes several accidents in a row.  To break
one of these harms nobody in most lives, and no client sees anything of it.  So what replicas and
targets do is held against the rule itself: wrappers around the product look before a call or
behind it, and put down what they find.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any

import numpy as np

from cstor_core.generated.cstor.v1 import replica_pb2
from cstor_core.history import History, Reign
from cstor_core.limits import LEASE_S
from cstor_core.rows import rows_of
from cstor_target.volume.engine import Engine
from cstor_target.volume.lease import MARGIN
from cstor_target.volume.members import Member, Standing
from cstor_target.volume.order import Order
from cstor_target.volume.quorum import held_by
from cstor_target.volume.readers import Question
from cstor_target.volume.reads import Reads
from cstor_target.volume.roster import Roster
from cstor_target.volume.witness import others_to_flag
from replica.copies import CopiesSession
from replica.host import ReplicaHost
from replica.promises import Fence
from replica.replica_node import ReplicaNode
from replica.sessions import ReadSession
from replica.sources import NOTHING_SINCE
from replica.store.reader import Reader
from replica.store.replica_store import ReplicaStore
from replica.store.staging import Stage
from replica.store.writer import Writer
from replica.witness_host import WitnessHost
from tests.simulation.cluster import BLOCKS, Cluster, Target
from tests.simulation.watch import versions_of

_ALL = np.arange(BLOCKS, dtype=np.uint64)
_SEQ = np.uint64(0xFFFFFFFF)

Host = ReplicaHost | WitnessHost
Then = Callable[[Any], None]
"""Looks at the outcome of a call."""


class Rules:
    """Of one life."""

    def __init__(self, cluster: Cluster) -> None:
        self.broken: list[str] = []
        self._cluster = cluster
        self._promised: dict[tuple[str, int], str] = {}
        self._highest: dict[str, int] = {}
        self._opened: set[str] = set()
        """The target instances that serve, or have served."""
        self._leases: dict[str, dict[str, float]] = {}
        """Of each member: until when it lets which target serve, by its own clock."""
        self.mergers: dict[Order, Any] = {}
        self.rosters: dict[Order, Roster] = {}
        self.answers: dict[tuple[Question, int], tuple[Reads, int, float]] = {}
        """What has been read and is on its way to whoever asked: how new it is, and since when.

        Two members may have answered a question: each answer is known by its data.
        """

    def found(self, sentence: str) -> None:
        """A rule has been broken."""
        self.broken.append(f"{sentence}, at {self._cluster.loop.time():.4f}")

    def promised(self, fence: Fence, epoch: int, instance: str) -> None:
        """A member has promised."""
        uuid = fence._store.replica_uuid  # type: ignore[attr-defined]
        if self._promised.setdefault((uuid, epoch), instance) != instance:
            self.found(f"{uuid} has promised epoch {epoch} to two targets")
        if epoch < self._highest.setdefault(uuid, epoch):
            self.found(f"{uuid} has promised epoch {epoch} behind a higher one")
        self._highest[uuid] = max(epoch, self._highest[uuid])

    def leased(self, host: Host, request: replica_pb2.LeaseRequest) -> None:
        """A member lets a target serve for some time: the one that it has promised itself to."""
        orders = request.orders
        node = host.node(orders.volume_uuid, orders.replica_uuid)
        if node.fence.epoch != orders.epoch:
            self.found(f"{orders.replica_uuid} gives a lease for epoch {orders.epoch}")
        clock = node.lease._clock
        until_s = clock.monotonic() + request.duration_ms / 1000
        self._leases.setdefault(orders.replica_uuid, {})[orders.target_instance] = until_s

    def told(
        self,
        host: Host,
        request: replica_pb2.PromiseRequest,
        answer: replica_pb2.PromiseResponse,
    ) -> None:
        """A member has answered a target that asked for a promise: so it knows of all leases."""
        uuid = request.replica_uuid
        now_s = host.node(request.volume_uuid, uuid).lease._clock.monotonic()
        for instance, until_s in self._leases.get(uuid, {}).items():
            left_s = until_s - now_s
            if instance != request.target_instance and answer.lease_left_ms < 1000 * left_s - 1:
                self.found(f"{uuid} keeps silent about a lease of {left_s} s")

    def opens(self, target: Target, epoch: int, seq: int) -> None:
        """A target is about to serve; its epoch's record is this entry.

        Of a member with which it has no stream (any more) nobody knows.
        """
        assert target.engine is not None
        assert target.engine._membership.tenure is not None
        self._opened.add(target.engine._membership.tenure.instance)
        roster = target.engine._roster
        holding = sum(self._has_record(member, epoch, seq) for member in roster.members)
        if holding < roster.quorum:
            self.found(f"{target.name} serves, and {holding} members have flushed its record")

    def _has_record(self, member: Any, epoch: int, seq: int) -> bool:
        machine = self._cluster.home(member.replica_uuid, member.link.address)
        if machine.is_witness:
            held = machine.held()
            return held is None or held.record_epoch >= epoch
        node = machine.node
        if node is None or member.append_stream is None:
            return True
        end = node.store.history.end
        return end.epoch > epoch or (end.epoch == epoch and node.store.durable_seq >= seq)

    def in_sync(self, member: Member) -> None:
        """A member counts from now on: so it is complete."""
        machine = self._cluster.home(member.replica_uuid, member.link.address)
        node = machine.node_with(member.replica_uuid)
        if node is not None and member.append_stream is not None and node.store.rebuilding:
            self.found(f"{member.name} is in sync, and is being rebuilt")

    def attested(self, epoch: int, seq: int) -> None:
        """A witness is told of an epoch's record: so a data member has flushed it."""
        nodes = [machine.node for machine in self._cluster.data_members]
        if not any(
            node is None
            or node.store.history.end.epoch > epoch
            or (node.store.history.end.epoch == epoch and node.store.durable_seq >= seq)
            for node in nodes
        ):
            self.found(f"a witness holds the record of epoch {epoch} before a data member does")

    def look(self, targets: list[Target]) -> None:
        """Now and then."""
        for target in targets:
            engine = target.engine
            if engine is None or not target.is_up or not engine.serving:
                continue
            if engine._roster._change is not None:
                continue
            leased = {uuid for uuids, _ in engine._lease._groups for uuid in uuids}
            members = {member.replica_uuid for member in engine._roster.members}
            if leased != members:
                self.found(f"{target.name} has its lease from {leased}, and members are {members}")

    def ends(self, targets: list[Target]) -> None:
        """All has been well for long enough."""
        for target in targets:
            engine = target.engine
            tenure = engine._membership.tenure if engine is not None else None
            if engine is None or tenure is None or not engine.serving:
                continue
            for member in engine._roster.members:
                machine = self._cluster.home(member.replica_uuid, member.link.address)
                is_failed = member.standing is Standing.FAILED or machine.has_failed
                if is_failed and not tenure.is_out_of_date(member.replica_uuid):
                    self.found(f"{member.name} has failed, and is not recorded as out of date")

    def answered(self, question: Question, pieces: Any) -> None:
        """A read is about to be answered: under a lease that W members have given since it was
        read, or that holds; and without a write cache with what W members have flushed.
        """
        reads, newest, since_s = self.answers.pop((question, id(pieces)))
        lease, order = reads._lease, reads._order
        until_s = lease._since_s + LEASE_S * (1 - MARGIN)
        if reads._clock.monotonic() >= until_s and lease._since_s < since_s:
            self.found(f"block {question.block} is answered without a lease")
        if not self._cluster.write_cache and newest > order.durable_seq:
            self.found(f"block {question.block} is answered, and entry {newest} is not flushed")

    def flags(self, store: ReplicaStore, instance: str) -> None:
        """A target is about to flag a replica as rebuilding: it serves, and R others hold what the
        replica holds.
        """
        cluster = self._cluster
        if store.rebuilding or self._is_of_a_clone(store):
            return
        if instance not in self._opened:
            self.found(f"{store.replica_uuid} is flagged by {instance}, which has not opened")
        holding = 0
        for machine in cluster.data_members:
            node = machine.node
            if node is None:
                holding += 1  # nobody knows
            elif node.store is not store and not node.store.rebuilding:
                shared = node.store.history.shared_with(store.history)
                holding += node.store.durable_seq >= shared.last_seq
        members = len(cluster.configurations.addresses)
        needed = others_to_flag(members, has_witness=cluster.witness is not None)
        if holding < needed:
            self.found(f"{store.replica_uuid} is flagged, and {holding} others hold what it holds")

    def rebuild_ends(self, store: ReplicaStore, history: History) -> None:
        """The flag is about to be cleared: the stream has reached all that the replica holds."""
        rows = rows_of(store.rows(_ALL))
        if rows["seq"].max() > history.end.last_seq:
            self.found(f"{store.replica_uuid} ends its rebuild before its stream is so far")
        elif history.foreign(rows).any():
            self.found(f"{store.replica_uuid} ends its rebuild with foreign blocks")

    def rebuilt(self, store: ReplicaStore) -> None:
        """The flag was cleared: block by block the replica is equal to all that are complete.

        What one has applied and the other has not may differ.
        """
        if self._is_of_a_clone(store):
            return
        mine, my_seq = versions_of(store), np.uint64(store.applied_seq)
        for machine in self._cluster.data_members:
            other = machine.node.store if machine.node is not None else None
            if other is None or other is store or other.rebuilding or other.short:
                continue
            if other.history.end.epoch != store.history.end.epoch:
                continue
            theirs, their_seq = versions_of(other), np.uint64(other.applied_seq)
            is_known = ((mine & _SEQ) <= their_seq) & ((theirs & _SEQ) <= my_seq)
            different = np.flatnonzero((mine != theirs) & is_known)
            if len(different):
                self.found(
                    f"blocks {different.tolist()} of {store.replica_uuid} are not those of "
                    f"{other.replica_uuid} when its rebuild ends"
                )

    def _is_of_a_clone(self, store: ReplicaStore) -> bool:
        return store.identity.volume_uuid != self._cluster.identity.volume_uuid


_now: Rules | None = None


def begin(cluster: Cluster) -> Rules:
    """Of a new life."""
    global _now  # noqa: PLW0603 - the wrappers are there once for a process
    _now = Rules(cluster)
    return _now


def has_moved(replica_uuid: str) -> bool:
    """Whether the daemon of a replica has ever got another address."""
    machine = _now._cluster.homes.get(replica_uuid) if _now is not None else None
    return machine is not None and machine.moves > 0


def _around(owner: Any, name: str, look: Callable[..., Then | None]) -> None:
    """Have `look` called before each call, and what it gives behind those that end well."""
    call = getattr(owner, name)

    def before(*arguments: Any, **named: Any) -> Then:
        then = look(_now, *arguments, **named) if _now is not None else None
        return then or (lambda _outcome: None)

    @wraps(call)
    def watched(*arguments: Any, **named: Any) -> Any:
        then = before(*arguments, **named)
        outcome = call(*arguments, **named)
        then(outcome)
        return outcome

    @wraps(call)
    async def watched_to_its_end(*arguments: Any, **named: Any) -> Any:
        then = before(*arguments, **named)
        outcome = await call(*arguments, **named)
        then(outcome)
        return outcome

    setattr(owner, name, watched_to_its_end if iscoroutinefunction(call) else watched)


def install() -> None:
    """Put the wrappers in place, once for a process, around mistakes that have been planted."""
    _around(Fence, "promise", _promise)
    for kind in (ReplicaHost, WitnessHost):
        _around(kind, "promise", _tell)
        _around(kind, "lease", _lease)
    _around(WitnessHost, "attest", _attest)
    _around(ReadSession, "take_answer", _read_there)
    _around(Roster, "promote", lambda now, _, member: now.in_sync(member))
    _around(ReplicaNode, "apply", _apply)
    _around(Engine, "__init__", _engine)
    _around(Order, "operate", _operate)
    _around(Order, "advance", _advance)
    _around(Roster, "_progressed_in_change", _in_change)
    _around(Reads, "_settled", _read)
    _around(Question, "finish", _answer)
    _around(ReplicaHost, "begin_rebuild", _flag)
    _around(ReplicaStore, "finish_rebuild", _finish_rebuild)
    _around(Writer, "append_operation", _append_operation)
    _around(CopiesSession, "take_answer", _give)
    _around(Reader, "changed_since", _changed_since)
    _around(Stage, "switch", _switch)


def _promise(now: Rules, fence: Fence, epoch: int, instance: str) -> Any:
    def then(is_given: bool) -> None:
        if is_given:
            now.promised(fence, epoch, instance)

    return then


def _tell(now: Rules, host: Host, request: replica_pb2.PromiseRequest) -> Any:
    return lambda answer: now.told(host, request, answer)


def _lease(now: Rules, host: Host, request: replica_pb2.LeaseRequest) -> Any:
    def then(answer: replica_pb2.LeaseResponse) -> None:
        if answer.granted:
            now.leased(host, request)

    return then


def _attest(now: Rules, _host: WitnessHost, request: replica_pb2.AttestRequest) -> None:
    now.attested(request.orders.epoch, request.record_seq)


def _read_there(now: Rules, session: ReadSession) -> Any:
    def then(message: Any) -> None:
        node = session._node
        if message is not None and node is not None and session.epoch != node.fence.epoch:
            now.found(f"a read of epoch {session.epoch} is answered behind a promise")

    return then


def _apply(now: Rules, node: ReplicaNode, _entry: Any) -> None:
    session = node.append_session
    if session is not None and session.epoch < node.fence.epoch:
        now.found(f"an entry came in a stream of epoch {session.epoch} behind a promise")


def _engine(now: Rules, engine: Engine, *_: Any) -> Any:
    def then(_: None) -> None:
        now.mergers[engine._order] = engine._merger
        now.rosters[engine._order] = engine._roster

    return then


def _operate(now: Rules, order: Order, *_: Any, blocks: int = 0, **__: Any) -> None:
    merger = now.mergers.get(order)
    if blocks and merger is not None and merger._locked:
        now.found("a revert is ordered between the two halves of a merge")


def _advance(now: Rules, order: Order, completed_seq: int, _durable_seq: int) -> None:
    """Entries are about to be acknowledged: so many members as are a quorum have said so."""
    roster = now.rosters.get(order)
    if roster is None or roster._change is not None or completed_seq <= order.completed_seq:
        return
    if completed_seq > held_by(roster.quorum, [one.applied_seq for one in roster.in_sync]):
        now.found(f"entry {completed_seq} is acknowledged, and no quorum of members holds it")


def _read(now: Rules, reads: Reads, question: Question, newest: int, pieces: Any, *_: Any) -> None:
    now.answers[question, id(pieces)] = (reads, newest, reads._clock.monotonic())


def _answer(now: Rules, question: Question, error: Any, pieces: Any) -> None:
    if error is None and (question, id(pieces)) in now.answers:
        now.answered(question, pieces)


def _in_change(now: Rules, roster: Roster, change: Any) -> Any:
    def then(_: None) -> None:
        is_done = roster._change is not change
        if not is_done and roster._order.completed_seq >= change.seq:
            now.found("an entry behind a change counts before the change is done")

    return then


def _flag(now: Rules, host: ReplicaHost, request: replica_pb2.BeginRebuildRequest) -> None:
    orders = request.orders
    store: Any = host.node(orders.volume_uuid, orders.replica_uuid).store
    now.flags(store, orders.target_instance)


def _finish_rebuild(now: Rules, store: ReplicaStore, history: History) -> Any:
    if not store.rebuilding:
        return None
    now.rebuild_ends(store, history)
    inode: Any = store._parts.file._inode  # type: ignore[attr-defined]
    written = inode.covered + len(inode.unflushed)

    def then(_: None) -> None:
        if inode.covered < written:
            now.found(f"{store.replica_uuid} has cleared its flag, and flushed nothing")
        now.rebuilt(store)

    return then


def _append_operation(now: Rules, writer: Writer, operation: Any) -> Any:
    is_rebuilding = writer._parts.standing.rebuilding

    def then(_: None) -> None:
        if is_rebuilding and operation.HasField("revert"):
            now.found("a rebuilding replica has applied a revert")

    return then


def _give(now: Rules, session: CopiesSession) -> Any:
    def then(message: Any) -> None:
        node = session._node
        if message is None or node is None:
            return
        if session.epoch != node.fence.epoch:
            now.found(f"a source gives for epoch {session.epoch} behind a promise")
        elif node.store.rebuilding:
            now.found(f"{node.store.replica_uuid} is a source, and is being rebuilt")

    return then


def _changed_since(now: Rules, reader: Reader, point: Reign, *_: Any) -> None:
    history = reader._parts.standing.history
    is_shared = point.last_seq == 0 or history.up_to(point.last_seq).end == point
    if point != NOTHING_SINCE and not is_shared:
        now.found(f"a source is asked for what came behind {point}, which it does not share")


def _switch(now: Rules, stage: Stage, _operations: Any, configuration: Any) -> Any:
    def then(_: None) -> None:
        own = stage._parts.standing.configuration
        if configuration is not None and own != configuration:
            now.found("a step has left a replica with another configuration than its peer's")

    return then
