"""`python -m tests.nemesis`: the long run.  Exit code 1 where a promise was not kept."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from tests.nemesis import report
from tests.nemesis.plan import Kind
from tests.nemesis.run import Plan, run
from tests.nemesis.site import Topology
from tests.system.tools import HarnessError


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="rounds begin for so long")
    parser.add_argument("--rounds", type=int, default=1, help="there are so many at least")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--kind",
        action="append",
        choices=[kind.name.lower() for kind in Kind],
        help="only these kinds; repeat it for more",
    )
    parser.add_argument("--one-target", action="store_true", help="no second one stands by")
    parser.add_argument("--no-tls", action="store_true", help="links between daemons are plain")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--results", type=Path, help="where nemesis.json and nemesis.md go")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run, and say what came of it; what daemons and initiators said is kept where it is bad."""
    options = parse(arguments)
    kinds = [Kind[name.upper()] for name in options.kind or ()] or list(Kind)
    scratch = Path(tempfile.mkdtemp(prefix="nemesis.", dir=options.dir))
    topology = Topology(tls=not options.no_tls, standby=not options.one_target)
    plan = Plan(options.seed, options.minutes, kinds, options.rounds, topology=topology)
    try:
        outcome = run(plan, scratch)
    except HarnessError as error:
        print(f"nemesis: {error}\nLogs and journals are in {scratch}", file=sys.stderr)
        return 2
    found = report.document(outcome)
    page = report.markdown(found)
    print(page)
    if options.results is not None:
        options.results.mkdir(parents=True, exist_ok=True)
        (options.results / "nemesis.json").write_text(json.dumps(found) + "\n")
        (options.results / "nemesis.md").write_text(page)
    if not found["is_good"]:
        print(f"Logs and journals are in {scratch}", file=sys.stderr)
        return 1
    shutil.rmtree(scratch)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
