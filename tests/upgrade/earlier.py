"""An earlier release, installed from its source into an environment of its own.

`first_simulator.tar.xz` has the packages of the commit that first had the simulator, as `git
archive` gives them.  The environment has its commands and these packages; what they depend on is
taken from where the tests run, so that nothing is fetched.
"""

from __future__ import annotations

import sysconfig
import tarfile
import venv
from pathlib import Path

from tests.archives import unpack

ARCHIVE = Path(__file__).parent / "first_simulator.tar.xz"
COMMIT = "e2b5249"
COMMANDS = {
    "cstor": "cstor_cli.main",
    "cstor-target": "cstor_target.main",
    "cstor-replica": "replica.main",
}
_SCRIPT = """#!{python}
import sys
from {module} import main
sys.exit(main())
"""


def install(directory: Path) -> Path:
    """Install the earlier release below a directory; where its commands lie."""
    venv.create(directory, with_pip=False, symlinks=True)
    paths = sysconfig.get_paths("venv", {"base": str(directory), "platbase": str(directory)})
    packages, commands = Path(paths["purelib"]), Path(paths["scripts"])
    with tarfile.open(ARCHIVE) as archive:
        unpack(archive, packages)
    # A path that comes behind its own packages, and whose own .pth files are not looked at.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for command, module in COMMANDS.items():
        script = commands / command
        script.write_text(_SCRIPT.format(python=commands / "python", module=module))
        script.chmod(0o755)
    return commands
