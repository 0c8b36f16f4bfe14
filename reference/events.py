"""The page of the events, from their table in `cstor_target/events.py`."""

from __future__ import annotations

import re

from cstor_target.events import KINDS
from reference.tables import table

HEAD = """# Events

What `cstor events` tells, and `cstor_events_total` counts by its `name`. Words in capitals are
facts of the event, which `--output json` has under their names in lower case. What to do is said in
[Running cStor by hand](../operations.md#what-operators-see).
"""


def events_page() -> str:
    """The page as Markdown."""
    rows = [
        (f"`{name}`", kind.severity.name.lower(), re.sub(r"\{(\w+)[^}]*\}", _fact, kind.template))
        for name, kind in KINDS.items()
    ]
    return f"{HEAD}\n{table(('name', 'severity', 'sentence'), rows)}"


def _fact(found: re.Match[str]) -> str:
    return found[1].upper()
