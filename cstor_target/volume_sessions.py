"""The iSCSI sessions of one volume, as operators see and end them (RFC 7143, 4.4.3).

Ending a session is no harm to the volume: its tasks end as they do when a session is closed (7.6),
which drops their answers and never their effect, and the initiator may log in again.  A discovery
session is one with no volume, and is not among these.
"""

from __future__ import annotations

from collections.abc import Callable

from cstor_core.errors import InputError, UnknownSessionError
from cstor_core.generated.cstor.v1 import control_pb2
from cstor_target.iscsi.sessions import TSIH_MAX, Session, SessionTable
from cstor_target.scsi.reservations import Registrant
from cstor_target.volume.events import EventSink

NAME_CHARACTERS_MAX = 223
"""Of an iSCSI name (RFC 7143, 4.2.7.1)."""


class VolumeSessions:
    """Those sessions of a process which are of one target node.

    `names` gives the name of the volume and that of its target node, which are not known for
    certain before a replica has answered.
    """

    def __init__(
        self, names: Callable[[], tuple[str, str]], table: SessionTable, events: EventSink
    ) -> None:
        self._names = names
        self._table = table
        self._events = events

    def reports(self) -> list[control_pb2.SessionReport]:
        """In short, for the volume's report."""
        return [
            control_pb2.SessionReport(
                initiator_name=session.initiator_name, address=_peer(session), tsih=session.tsih
            )
            for session in self._all()
        ]

    def listed(self) -> list[control_pb2.Session]:
        """Each with all there is to know of it."""
        return [self._told(session) for session in self._all()]

    def drop(self, request: control_pb2.DropSessionRequest) -> list[control_pb2.Session]:
        """End those that are meant, unless it is a dry run; they as they were.

        Raises InputError where it is not said which are meant, UnknownSessionError where there
        are none.
        """
        meant = self._meant(request)
        told = [self._told(session) for session in meant]
        if request.dry_run:
            return told
        for session in meant:
            peer, commands = _peer(session), _outstanding(session)
            self._table.drop(session)
            self._events(
                "session_dropped",
                {
                    "tsih": session.tsih,
                    "initiator": session.initiator_name,
                    "peer": peer,
                    "commands": commands,
                },
            )
        return told

    def drop_all(self) -> None:
        """End all of them: the volume is not served here any more."""
        for session in self._all():
            self._table.drop(session)

    def abort_tasks(self, registrant: Registrant) -> None:
        """Drop the answers of all tasks of one I_T nexus (SPC-4 r36f, 5.13.11)."""
        for session in self._all():
            nexus = session.initiator_port, session.portal_group_tag
            if nexus == registrant and session.connection is not None:
                session.connection.abort_tasks(None)

    def _all(self) -> list[Session]:
        return self._table.of_target(self._names()[1])

    def _meant(self, request: control_pb2.DropSessionRequest) -> list[Session]:
        tsih, name = request.tsih, request.initiator_name.lower()
        if request.HasField("tsih"):
            if not 0 < tsih <= TSIH_MAX:
                raise InputError(f"{tsih} is no TSIH: these are numbers from 1 to {TSIH_MAX}")
            found = [session for session in self._all() if session.tsih == tsih]
            words = f"with the TSIH {tsih}"
        elif name:
            found = [session for session in self._all() if session.initiator_name == name]
            words = f"of the initiator {name[:NAME_CHARACTERS_MAX]!r}"
        else:
            raise InputError("say which session: give its TSIH, or the name of its initiator")
        if not found:
            raise UnknownSessionError(
                f"volume {self._names()[0]} has no session {words}: list its sessions to see those "
                "that there are; one that has ended needs no drop"
            )
        return found

    def _told(self, session: Session) -> control_pb2.Session:
        connections = []
        if session.connection is not None:
            connections.append(
                control_pb2.SessionConnection(cid=session.cid, peer_address=session.connection.peer)
            )
        return control_pb2.Session(
            volume=self._names()[0],
            initiator_name=session.initiator_name,
            isid=session.isid,
            tsih=session.tsih,
            connections=connections,
            since_unix_s=session.since_unix_s,
            commands_outstanding=_outstanding(session),
        )


def _peer(session: Session) -> str:
    return session.connection.peer if session.connection is not None else ""


def _outstanding(session: Session) -> int:
    connection = session.connection
    return connection.tasks_in_flight if connection is not None else session.window.outstanding
