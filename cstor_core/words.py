"""Between the generated messages and the values that the code works with."""

from __future__ import annotations

from cstor_core.generated.cstor.v1 import volume_pb2
from cstor_core.history import History, Reign


def history_from(message: volume_pb2.History) -> History:
    """The value of a History message."""
    return History(tuple(reign_from(reign) for reign in message.reigns))


def history_message(history: History) -> volume_pb2.History:
    """The History message of a value."""
    return volume_pb2.History(reigns=[reign_message(reign) for reign in history.reigns])


def reign_from(message: volume_pb2.Reign) -> Reign:
    """The value of a Reign message."""
    return Reign(message.epoch, message.last_seq)


def reign_message(reign: Reign) -> volume_pb2.Reign:
    """The Reign message of a value."""
    return volume_pb2.Reign(epoch=reign.epoch, last_seq=reign.last_seq)
