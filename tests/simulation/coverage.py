"""Which branches of the rules were taken: counted from outside, by wrappers around the product.

A branch that is never taken in many lives is a rule that the lives do not test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

from cstor_core.errors import (
    CorruptError,
    CstorError,
    ForeignReplicaError,
    InputError,
    NoSpaceError,
    UnavailableError,
)
from cstor_target.local_links import LocalLink
from cstor_target.volume import opener, opening
from cstor_target.volume.backing import Failure
from cstor_target.volume.cached_reads import CachedReads
from cstor_target.volume.changes import Changes
from cstor_target.volume.gate import Gate
from cstor_target.volume.lease import Lease
from cstor_target.volume.members import Standing
from cstor_target.volume.membership import Membership
from cstor_target.volume.order import Order
from cstor_target.volume.placing import Placing
from cstor_target.volume.read_cache import ReadCache
from cstor_target.volume.reads import Reads
from cstor_target.volume.returning import Returning
from cstor_target.volume.room import Room
from cstor_target.volume.roster import Roster
from cstor_target.volume.sanitizing import Sanitizing
from cstor_target.volume.scrub_run import ScrubRun
from cstor_target.volume.scrubs import Scrubs
from cstor_target.volume.witness import gives_up_witness
from replica.host import ReplicaHost
from replica.leases import LeaseGiven
from replica.pacing import Pace
from replica.promises import Fence
from replica.replica_node import ReplicaNode
from replica.sessions import ReadSession
from replica.store import standing, writer
from replica.store.family import Sharing
from replica.store.reader import Reader as StoreReader
from replica.store.rebuild import Rebuild
from replica.store.replica_store import ReplicaStore
from replica.store.staging import Stage
from tests.simulation import clone_coverage as cloning
from tests.simulation import rules
from tests.simulation import stream_coverage as streaming

_taken: Counter[str] = Counter()

Tell = Callable[..., list[str]]
"""Says, of the arguments and the outcome of a call, which branches it took."""

BRANCHES = frozenset(
    (
        *("opening: enough whole", "opening: short ones count without a cache"),
        *("opening: all are here and too few are whole", "opening: waits for whole ones"),
        *("opening: one behind", "opening: one parted", "opening: one being rebuilt"),
        *("opening: too few promised", "opening: finishes a rebuild", "opening: loss possible"),
        *("opening: given up on the way", "return: backlog too short", "return: in order"),
        *("promise: given", "promise: refused", "promise: an earlier lease runs"),
        *("sanitize: done", "sanitize: gone on with"),
        *("succession: takes over", "succession: left"),
        *("fence: refuses", "fence: ends what is under way"),
        *("lease: renewed", "lease: refused", "lease: given back", "lease: may have been given"),
        *("lease: lapsed when an answer came", "lease: held answer let go"),
        *("lease: held answer ends", "read: waits for a write", "read: waits until W hold it"),
        *(
            "read: waits until W have flushed it",
            "read: asked again",
            "read: bad copy",
            "read: the disk fails",
        ),
        *("read: waits for entries", "gate: passed late", "gate: busy", "write: busy in flight"),
        *(
            *("link: in one process", "read: long"),
            "merge",
            "member: fell too far behind",
            "member: recorded as out of date",
        ),
        *("read: out of the cache", "read: in the cache without a lease", "read: ahead"),
        *("read: waits for what is read ahead", "cache: an answer was overtaken"),
        *("read: asked of two", "bad copy: replaced", "write: no room"),
        *("member: no space", "return: a failed one stays out", "witness: given up"),
        *("return: from a tail", "return: staged", "return: rebuilt", "return: rebuild broken off"),
        *("rebuild: foreign blocks", "rebuild: ends with its stream", "opening: staged"),
        *("rebuild: at a pace", "add: taken up again", "stage: goes on where it broke off"),
        *("short: after a power loss", "short: made whole", "flush: failed", "deposed"),
        *("scrub: finished", "scrub: ends", "scrub: finds and puts right"),
        *("scrub: a write is on its way", "scrub: a member is missed"),
        *("move: told", "move: refused, another one is there"),
        *(
            "move: found by a target",
            "move: whoever is at the old address refuses",
        ),
        *("pair: written", "pair: replaced", "pair: another was found", "pair: reserved"),
        *("answer GOOD", "answer BUSY", "answer MEDIUM_ERROR"),
        *("copy: placed", "copy: the data are needed", "copy: shares units"),
        "copy: too many share a unit",
        *cloning.BRANCHES,
        *streaming.BRANCHES,
    )
)


def begin() -> None:
    """Count from zero."""
    _taken.clear()


def taken() -> Counter[str]:
    """How often each was taken since then."""
    return Counter(_taken)


def count(name: str) -> None:
    """Count what a client has brought about."""
    _taken[name] += 1


def _take(names: Iterable[str]) -> None:
    """Count: most calls take no branch of interest, for which `Counter.update` costs too much."""
    for name in names:
        _taken[name] += 1


def _watch(owner: Any, name: str, tell: Tell) -> None:
    """Have `tell` told of every call: (outcome or error, arguments)."""
    call = getattr(owner, name)

    @wraps(call)
    def watched(*arguments: Any, **named: Any) -> Any:
        try:
            outcome = call(*arguments, **named)
        except CstorError as error:
            _take(tell(error, *arguments, **named))
            raise
        _take(tell(outcome, *arguments, **named))
        return outcome

    setattr(owner, name, watched)


def _watch_async(owner: Any, name: str, tell: Tell) -> None:
    """The same for a coroutine."""
    call = getattr(owner, name)

    @wraps(call)
    async def watched(*arguments: Any, **named: Any) -> Any:
        try:
            outcome = await call(*arguments, **named)
        except CstorError as error:
            _take(tell(error, *arguments, **named))
            raise
        _take(tell(outcome, *arguments, **named))
        return outcome

    setattr(owner, name, watched)


def _if(name: str, condition: Callable[..., object]) -> Tell:
    return lambda *call, **named: [name] if condition(*call, **named) else []


def _where_it_gives(name: str, condition: Callable[[Any], object]) -> Tell:
    """Of calls that end without an error."""
    return _if(name, lambda out, *_: not isinstance(out, CstorError) and condition(out))


def install() -> None:
    """Put the wrappers in place, once for a process."""
    _watch_openings()
    _watch_members()
    _watch_commands()
    _watch_returns()
    _watch_moves()
    _watch_copies()
    cloning.install(_watch, _watch_async)
    streaming.install(_watch)


def _watch_openings() -> None:
    def whole(
        outcome: Any, reports: Any, members: int, *, write_cache: bool, **_: Any
    ) -> list[str]:
        if isinstance(outcome, CstorError):
            return ["opening: waits for whole ones"]
        short = any(report.short for report in reports)
        if not write_cache:
            return ["opening: short ones count without a cache"] if short else []
        return [
            "opening: enough whole" if outcome else "opening: all are here and too few are whole"
        ]

    def chosen(outcome: Any, *_: Any, **__: Any) -> list[str]:
        if isinstance(outcome, CstorError):
            sentence = str(outcome)
            told = {"promised and": "too few promised", "being rebuilt:": "newest known to a "
                    "rebuild only"}  # fmt: skip
            return [f"opening: {name}" for words, name in told.items() if words in sentence]
        found = {"one behind": outcome.behind, "one parted": outcome.parted}
        found |= {"one being rebuilt": outcome.others, "loss possible": outcome.loss_possible}
        return [f"opening: {name}" for name, taken in found.items() if taken]

    _watch(opening, "are_enough_whole", whole)
    opener.are_enough_whole = opening.are_enough_whole  # type: ignore[attr-defined]
    _watch(opener, "choose", chosen)
    _watch(Membership, "_give_up_opening", lambda *_: ["opening: given up on the way"])
    _watch(Membership, "_depose", lambda *_: ["deposed"])
    _watch(opener.Opener, "_stage", lambda *_: ["opening: staged"])
    _watch(opener.Opener, "_finish_rebuild", lambda *_: ["opening: finishes a rebuild"])


def _watch_moves() -> None:
    def moved(outcome: Any, *_: Any) -> list[str]:
        if isinstance(outcome, InputError) and "and not" in str(outcome):
            return ["move: refused, another one is there"]
        if isinstance(outcome, UnavailableError) and "too few" in str(outcome):
            return ["move: too few are in sync"]
        return [] if isinstance(outcome, CstorError) else ["move: told"]

    def found(_outcome: Any, opening_: opener.Opener, configuration: Any, *_: Any) -> list[str]:
        pairs = zip(opening_.members, configuration.members, strict=True)
        has_moved = any(found.link.address != named.address for found, named in pairs)
        return ["move: found by a target"] if has_moved else []

    def asked(outcome: Any, _node: Any, _volume: str, replica_uuid: str) -> list[str]:
        is_other = isinstance(outcome, ForeignReplicaError) and rules.has_moved(replica_uuid)
        return ["move: whoever is at the old address refuses"] if is_other else []

    _watch_async(Changes, "move", moved)
    _watch(opener.Opener, "_set_members", found)
    _watch(ReplicaNode, "check_identity", asked)


def _watch_members() -> None:
    def leased(outcome: Any, _host: Any, request: Any) -> list[str]:
        if isinstance(outcome, CstorError):
            return []
        given_back = outcome.granted and not request.duration_ms
        renewed = "lease: renewed" if outcome.granted else "lease: refused"
        return ["lease: given back" if given_back else renewed]

    _watch_async(
        Fence,
        "promise",
        lambda outcome, *_: ["promise: given" if outcome is True else "promise: refused"],
    )
    _watch_async(
        ReplicaHost,
        "promise",
        _if("promise: an earlier lease runs", lambda out, *_: getattr(out, "lease_left_ms", 0)),
    )
    _watch(Fence, "check", _if("fence: refuses", lambda outcome, *_: outcome is not None))
    _watch(Fence, "_refusal", lambda *_: ["fence: ends what is under way"])
    _watch_async(ReplicaHost, "lease", leased)
    _watch(
        LeaseGiven,
        "__init__",
        _if("lease: may have been given", lambda *_, may_be_given, **__: may_be_given),
    )
    _watch(
        ReplicaNode,
        "__init__",
        _if("short: after a power loss", lambda _out, _node, store, *_: store.short),
    )
    _watch_async(ReplicaStore, "made_whole", lambda *_: ["short: made whole"])
    _watch_async(
        ReplicaNode, "flush", _if("flush: failed", lambda out, *_: isinstance(out, CorruptError))
    )
    _watch_async(ReplicaNode, "reached", lambda *_: ["rebuild: ends with its stream"])
    _watch_work()


def _watch_work() -> None:
    """What goes on beside commands."""
    _watch_async(Rebuild, "foreign_blocks", _where_it_gives("rebuild: foreign blocks", len))
    _watch(Rebuild, "replace_bad", _where_it_gives("bad copy: replaced", bool))
    _watch(Rebuild, "replace_wrong", _where_it_gives("scrub: finds and puts right", bool))
    _watch(
        ScrubRun,
        "_judged",
        _where_it_gives(
            "scrub: a write is on its way", lambda out: any(not v.wrong for v in out.values())
        ),
    )
    _watch(
        ScrubRun,
        "_count_done",
        _if(
            "scrub: a member is missed",
            lambda _, run, looks, __: len(looks) < len(run._roster.members),
        ),
    )
    _watch(
        Sanitizing,
        "carry_on",
        _if("sanitize: gone on with", lambda _, sanitizing: sanitizing.now.state),
    )
    _watch(
        Scrubs,
        "_end",
        lambda _out, _scrubs, _state, why: ["scrub: ends" if why else "scrub: finished"],
    )


def _watch_commands() -> None:
    def waits(_outcome: Any, _order: Any, _seq: int, callback: Any) -> list[str]:
        answered = callback.func.__name__ == "_settled"
        return ["read: waits until W hold it" if answered else "read: waits for a write"]

    def held(_outcome: Any, reads: Reads, _question: Any, error: Failure | None, *_: Any) -> Any:
        lapsed = error is None and not reads._lease.holds
        return ["lease: lapsed when an answer came"] if lapsed else []

    def retried(_outcome: Any, _reads: Reads, question: Any, member: Any) -> list[str]:
        is_bad = member in question.bad
        return ["read: asked again", *(["read: bad copy"] if is_bad else [])]

    _watch(Order, "when_completed", waits)
    _watch(Order, "when_durable", lambda *_: ["read: waits until W have flushed it"])
    _watch(Reads, "_hand_on", held)
    _watch(Reads, "_retry", retried)
    _watch(
        ReadCache,
        "_has_changed",
        _if("cache: an answer was overtaken", lambda changed, *_: changed),
    )
    _watch(CachedReads, "_read_ahead", _if("read: ahead", lambda _, reads, first, count: count))
    _watch_cache()
    _watch(LocalLink, "open_append", lambda *_: ["link: in one process"])
    _watch(ReadSession, "_long_answer", _if("read: long", lambda answer, *_: answer is not None))
    _watch(ReadSession, "_park", lambda *_: ["read: waits for entries"])
    _watch(ReplicaNode, "serves_reads", _if("read: refused", lambda serves, *_: not serves))
    _watch(StoreReader, "_unreadable", lambda *_: ["read: the disk fails"])
    _watch(Placing, "_place_made", lambda *_: ["merge"])
    _watch(Room, "has", _if("write: no room", lambda has, *_: not has))
    _watch(
        standing.Standing, "reconfigure", _if("member: recorded as out of date", lambda *_: True)
    )
    _watch(
        Roster,
        "_is_done",
        _if(
            "witness: given up",
            lambda is_done, _, change: is_done and gives_up_witness(change.configuration),
        ),
    )
    _watch(Order, "expire", _if("write: busy in flight", lambda told, *_: told))
    _watch_ends(Lease, "when_renewed", 1, "lease: held answer let go", "lease: held answer ends")
    _watch_ends(Gate, "go_through", 2, "gate: failed", "gate: busy")
    open_gate = Gate.open

    def opened(self: Gate) -> None:
        _taken["gate: passed late"] += len(self.waiting)
        open_gate(self)

    Gate.open = opened  # type: ignore[method-assign]
    hedge = Reads._hedge

    def hedged(self: Reads) -> None:
        before = self._counters.reads_hedged
        hedge(self)
        if self._counters.reads_hedged > before:
            _taken["read: asked of two"] += 1

    Reads._hedge = hedged  # type: ignore[method-assign]


def _watch_cache() -> None:
    kick, read = CachedReads.kick, CachedReads._read

    def kicked(self: CachedReads) -> None:
        if self._hits:
            holds = self._lease.holds
            _taken["read: out of the cache" if holds else "read: in the cache without a lease"] += 1
        kick(self)

    def waited(self: CachedReads, wanted: Any) -> None:
        before = sum(len(coming.waiting) for coming in self._coming)
        read(self, wanted)
        if sum(len(coming.waiting) for coming in self._coming) > before:
            _taken["read: waits for what is read ahead"] += 1

    CachedReads.kick = kicked  # type: ignore[method-assign]
    CachedReads._read = waited  # type: ignore[method-assign, assignment]


def _watch_ends(owner: Any, name: str, at: int, passed: str, ended: str) -> None:
    """Count how what had to wait has ended: its listener is argument number `at`."""
    call = getattr(owner, name)

    @wraps(call)
    def watched(*arguments: Any) -> Any:
        listener = arguments[at]

        def told(error: Failure | None) -> None:
            _taken[passed if error is None else ended] += 1
            listener(error)

        return call(*arguments[:at], told, *arguments[at + 1 :])

    setattr(owner, name, watched)


def _watch_copies() -> None:
    def copied(_outcome: Any, placing: Placing, *_: Any) -> list[str]:
        is_waiting = placing._roster.is_bringing_back
        return ["copy: the data are needed" if is_waiting else "copy: placed"]

    def shared(outcome: Any, _sharing: Sharing, places: Any) -> list[str]:
        return ["copy: shares units"] if len(places) and outcome.all() else []

    _watch(Placing, "copy", copied)
    _watch(Sharing, "__call__", shared)
    _watch(writer, "data_at", lambda *_: ["copy: too many share a unit"])


def _watch_returns() -> None:
    def lost(_outcome: Any, _roster: Any, _member: Any, error: CstorError) -> list[str]:
        told = {"fell too far": "fell too far behind", "stood still": "stood still on its way back"}
        found = [f"member: {name}" for words, name in told.items() if words in str(error)]
        return found + (["member: no space"] if isinstance(error, NoSpaceError) else [])

    def fetched(outcome: Any, _returning: Any, _member: Any, before: Any) -> list[str]:
        return ["return: from a tail"] if outcome != before else []

    def taken_up(may: Any, _changes: Any, report: Any) -> list[str]:
        return ["add: taken up again"] if may and report.learner else []

    def done(name: str) -> Tell:
        return _if(name, lambda outcome, *_: not isinstance(outcome, CstorError))

    _watch(Roster, "lost", lost)
    _watch(Changes, "_may_be_taken_up", taken_up)
    _watch_async(Stage, "go_on", _where_it_gives("stage: goes on where it broke off", bool))
    _watch(Roster, "source_replaced", lambda *_: ["rebuild: from another source"])
    _watch_async(
        Rebuild,
        "lacking",
        _if("rebuild: found there", lambda found, *_: getattr(found, "verified", 0)),
    )
    _watch(Pace, "set", _if("rebuild: at a pace", lambda _, __, rate: rate))
    _watch_async(
        Returning,
        "_fence",
        _if("return: a failed one stays out", lambda _, __, one: one.standing is Standing.FAILED),
    )
    _watch_async(Returning, "_fetch_tail", fetched)
    _watch(Returning, "_rejoin", _if("return: backlog too short", lambda joined, *_: not joined))
    _watch_async(Returning, "_rejoined", _if("return: in order", lambda joined, *_: joined is True))
    _watch_async(Returning, "_stage", done("return: staged"))
    _watch_async(Returning, "_rebuild", lambda out, *_, **__: [
        "return: rebuild broken off" if isinstance(out, CstorError) else "return: rebuilt"
    ])  # fmt: skip
    _watch_async(
        Returning,
        "_until_others_hold",
        _if("return: too few hold it to flag", lambda out, *_: isinstance(out, CstorError)),
    )
