"""Whatever bytes come, a session ends with an error of ours, and the replica goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cstor_core.errors import CstorError
from cstor_core.frames import FORMAT, QUESTION, encode_copies_request, encode_read_request
from cstor_core.generated.cstor.v1 import replica_pb2, stream_pb2, volume_pb2
from cstor_core.rows import rows_of
from replica.copies import CopiesSession
from replica.daemon import open_host
from replica.host import ReplicaHost
from replica.replica_node import ReplicaNode
from replica.sessions import AppendSession, ReadSession, Session
from tests.scenario.replica.clients import IDENTITY, INSTANCE, run_message

Edits = list[tuple[int, int]]
EDITS = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4)


class Victim:
    """A replica with its epoch adopted, whose sessions are spoken to directly."""

    def __init__(self, host: ReplicaHost) -> None:
        self.host = host
        self.loop = asyncio.get_running_loop()
        self.node: ReplicaNode = host.nodes[IDENTITY.volume_uuid]
        self.opening = stream_pb2.StreamOpening(
            volume_uuid=IDENTITY.volume_uuid,
            replica_uuid=self.node.store.replica_uuid,
            epoch=1,
            target_instance=INSTANCE,
        )

    def append_session(self) -> AppendSession:
        session = self.host.append_session(lambda: None, lambda _: None)
        request = stream_pb2.AppendRequest(format=FORMAT, opening=self.opening)
        session.receive(request.SerializeToString())
        return session

    def read_session(self) -> ReadSession:
        session = self.host.read_session(lambda: None, lambda _: None)
        request = stream_pb2.ReadRequest(format=FORMAT, opening=self.opening)
        session.receive(request.SerializeToString())
        return session

    def copies_session(self) -> CopiesSession:
        session = self.host.copies_session(lambda: None, lambda _: None)
        request = stream_pb2.PullCopiesRequest(format=FORMAT, opening=self.opening)
        session.receive(request.SerializeToString())
        return session

    def run_is_taken(self) -> None:
        session = self.append_session()
        seq = self.node.store.applied_seq + 1
        session.receive(run_message(1, seq, (3, 4)))
        session.end()
        assert self.node.store.applied_seq == seq + 1


async def _open(pool: Path) -> Victim:
    host = await open_host(pool)
    created = await host.create_replica(replica_pb2.CreateReplicaRequest(identity=IDENTITY))
    replica_uuid = created.replica.replica_uuid
    configuration = volume_pb2.Configuration(
        number=1, members=[volume_pb2.Member(replica_uuid=replica_uuid)]
    )
    await host.found_replica(
        replica_pb2.FoundReplicaRequest(
            volume_uuid=IDENTITY.volume_uuid, configuration=configuration
        )
    )
    await host.promise(
        replica_pb2.PromiseRequest(
            volume_uuid=IDENTITY.volume_uuid,
            replica_uuid=replica_uuid,
            epoch=1,
            target_instance=INSTANCE,
        )
    )
    victim = Victim(host)
    record = volume_pb2.EpochRecord(seq=1, epoch=1, target_instance=INSTANCE)
    request = stream_pb2.AppendRequest(
        format=FORMAT, opening=victim.opening, entries=[volume_pb2.Entry(epoch_record=record)]
    )
    host.append_session(lambda: None, lambda _: None).receive(request.SerializeToString())
    return victim


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Victim]:
    with asyncio.Runner() as runner:
        made = runner.run(_open(tmp_path / "pool"))
        yield made
        runner.run(made.host.close())


def edited(message: bytes, edits: Edits) -> bytes:
    changed = bytearray(message)
    for position, value in edits:
        changed[position % len(changed)] = value
    return bytes(changed)


def said(session: Session, message: bytes) -> None:
    """Give a message to a session; only an error of ours may come of it."""
    with suppress(CstorError):
        session.receive(message)
        while session.take_answer() is not None:
            pass
    session.end()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(garbage=st.binary(max_size=300))
def test_garbage_ends_a_stream_before_and_after_its_opening(victim: Victim, garbage: bytes) -> None:
    async def speak() -> None:
        for session in (
            victim.append_session(),
            victim.read_session(),
            victim.copies_session(),
            victim.host.copies_session(lambda: None, lambda _: None),
            victim.host.append_session(lambda: None, lambda _: None),
            victim.host.read_session(lambda: None, lambda _: None),
        ):
            said(session, garbage)
        victim.run_is_taken()

    victim.loop.run_until_complete(speak())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=EDITS)
def test_a_damaged_run_is_applied_whole_or_not_at_all(victim: Victim, edits: Edits) -> None:
    async def speak() -> None:
        store = victim.node.store
        before = store.applied_seq
        message = run_message(1, before + 1, (5, 6, 7))
        said(victim.append_session(), edited(message[:300], edits) + message[300:])
        new = rows_of(store.rows(np.array((5, 6, 7), dtype=np.uint64)))["seq"] > before
        assert new.all() or not new.any()
        # Rows that were given one seq are one entry, and as good as those that were sent.
        assert store.applied_seq in (range(before + 1, before + 4) if new.all() else (before,))
        assert store.failed_reason is None
        victim.run_is_taken()

    victim.loop.run_until_complete(speak())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=EDITS)
def test_damaged_questions_harm_nothing(victim: Victim, edits: Edits) -> None:
    async def speak() -> None:
        questions = QUESTION.pack(1, 0, 3, 1) + QUESTION.pack(2, 0, 0, 256)
        said(victim.read_session(), edited(encode_read_request(questions), edits))
        blocks = np.arange(600, dtype="<u8").tobytes()
        said(victim.copies_session(), edited(encode_copies_request(blocks), edits))
        victim.run_is_taken()

    victim.loop.run_until_complete(speak())
