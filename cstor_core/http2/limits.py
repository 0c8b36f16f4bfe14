"""What a connection allows its peer, and what it holds for it at most."""

from __future__ import annotations

from dataclasses import dataclass

from cstor_core.units import KIB, MIB


@dataclass(frozen=True, slots=True)
class Limits:
    """The defaults are those of the data streams."""

    window_bytes: int = 64 * MIB
    """Flow control's credit, of a connection and of a stream: a whole backlog.  No less than
    the 65,535 bytes that HTTP/2 begins with: credit is added, never taken back."""
    frame_bytes_max: int = 2 * MIB
    """Of a frame, which is received whole, in one piece: a full batch with its table fits."""
    message_bytes_max: int = 16 * MIB
    streams_max: int = 8
    header_bytes_max: int = 16 * KIB
    """Of a header block, compressed and not."""
    idle_frames_max: int = 1000
    """Frames that move no data, between two ticks (section 10.5): a peer that floods is ended."""
    queue_bytes_max: int = 256 * MIB
    """What a caller may have queued on a stream: more than a backlog, and still an end."""


LIMITS = Limits()
