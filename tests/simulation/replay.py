"""Lives a script again: `python -m tests.simulation.replay FILE [planted]`, the latter with the
mistake planted that it shows.

Prints its trace and what is broken.  Exit code 1 where something is.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.simulation.running import begin
from tests.simulation.script import read


def main() -> int:
    script = read(Path(sys.argv[1]))
    begin(script.mistake if sys.argv[2:] == ["planted"] else "")
    result = script.live()
    print("\n".join([*result.trace, *result.broken]))
    return int(bool(result.broken))


if __name__ == "__main__":
    sys.exit(main())
