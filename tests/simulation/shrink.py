"""Makes a short script of a seed: `python -m tests.simulation.shrink SEED [MISTAKE [FILE]]`.

Prints the trace of the short life, and the script; writes it to a file under `scripts/`, if one is
named.  Exit code 1 where the seed does not fail.
"""

from __future__ import annotations

import sys

from tests.simulation.life import run
from tests.simulation.mutants.mistakes import MISTAKES
from tests.simulation.running import begin
from tests.simulation.script import SCRIPTS, Written, shrunk


def main() -> int:
    seed, mistake, name = [*sys.argv[1:], "", ""][:3]
    begin(mistake)
    whole = run(int(seed))
    if not whole.broken:
        print(f"seed {seed} keeps the contract")
        return 1
    deeds = shrunk(int(seed), whole.script, lambda result: bool(result.broken))
    sentence = MISTAKES[mistake].sentence if mistake else "Say what it taught."
    script = Written(int(seed), sentence, mistake, deeds)
    result = script.live()
    print("\n".join(result.trace))
    print("\n".join(result.broken))
    print(script.text())
    print(f"{len(deeds)} of {len(whole.script)} deeds are left")
    if name:
        (SCRIPTS / f"{name}.json").write_text(script.text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
