"""What can be set about a volume's engine, with the defaults and why they are so."""

from __future__ import annotations

from dataclasses import dataclass

from cstor_core.units import MIB


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Times are seconds of the clock handed in; sizes are bytes."""

    write_timeout_s: float = 20.0
    """How long a command waits for a quorum before it ends with BUSY."""
    inquiry_timeout_s: float = 1.0
    """How long a member may take to answer a question or a promise."""
    retry_s: float = 0.25
    """Pause between two tries to reach a member; a returned one is found within a second."""
    read_retry_s: float = 1.0
    """How long a member may leave a read unanswered while another one could be asked."""
    batch_bytes_max: int = 1 * MIB
    """A batch that has grown to this is sent although an earlier one is on its way."""
    gathering_turns: int = 12
    """So many turns of the loop that bring nothing show that a batch has gathered; 0 where it
    always has once no earlier one is unfinished."""
    backlog_bytes_max: int = 64 * MIB
    """Recent messages kept for members that are behind; who is further behind is rebuilt."""
    read_cache_bytes: int = 64 * MIB
    """Blocks that were read lately are kept up to this; 0 for none."""
    tight_bytes: int = 256 * MIB
    """Where members grant less, more than can be under way, every write is weighed."""
    rebuild_floor_bytes_per_s: int = 4 * MIB
    """What a member that comes back may always copy in a second, however busy initiators are."""
    copying_held_s: float = 0.005
    """How long entries gather for a member that copies: nobody waits for it, and each message
    wakes it up."""
    laggard_s: float = 10.0
    """A member that acknowledged nothing for so long while a quorum went on is let go."""
    scrub_rate_bytes_per_s: int = 64 * MIB
    """What each replica reads in a second at most while the volume is scrubbed."""
    scrub_every_s: float = 0.0
    """So long after the end of one scrub the next one begins by itself; 0 for never."""
