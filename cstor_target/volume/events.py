"""The seam to whoever tells people what happens to a volume."""

from __future__ import annotations

from collections.abc import Callable

EventSink = Callable[[str, dict[str, object]], None]
"""Takes the name of an event and its facts."""
