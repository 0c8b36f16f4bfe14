"""Makes a short script of a seed: `python -m tests.simulation.shrink SEED [MISTAKE [FILE]]`.

Prints the trace of the short life, and the script; writes it to a file under `scripts/`, if one is
named.  With a mistake it is the first seed from SEED on that shows it.  Exit code 1 where none
fails.
"""

from __future__ import annotations

import sys

from tests.simulation.life import run
from tests.simulation.mutants.mistakes import MISTAKES
from tests.simulation.running import begin
from tests.simulation.script import SCRIPTS, Written, shrunk

SEEDS_MAX = 1000


def main() -> int:
    seed, mistake, name = [*sys.argv[1:], "", ""][:3]
    begin(mistake)
    whole = run(int(seed))
    while mistake and not whole.broken and whole.seed < int(seed) + SEEDS_MAX:
        whole = run(whole.seed + 1)
    if not whole.broken:
        print(f"seed {whole.seed} keeps the contract")
        return 1
    deeds = shrunk(whole.seed, whole.script, lambda result: bool(result.broken))
    sentence = MISTAKES[mistake].sentence if mistake else "Say what it taught."
    script = Written(whole.seed, sentence, mistake, deeds)
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
