"""The guest's kernel and root file system, built once and kept in a cache.

The cache is $CSTOR_CACHE/linux-initiator, or .cache/linux-initiator in the repository; it may be
deleted at any time.  An image is named by a digest of everything it is made from, so a change of
the recipe makes a new one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.system.linux_initiator.packages import GUEST_PACKAGES, KERNEL_PACKAGE, Apt, unpack
from tests.system.tools import HarnessError, check, program

GUEST_FILES = Path(__file__).parent / "guest"
REPOSITORY = Path(__file__).parents[3]

MODULES_KEPT = tuple(
    f"kernel/{folder}"
    for folder in (
        "arch",
        "block",
        "crypto",
        "lib",
        "drivers/scsi",
        "drivers/md",
        "drivers/block",
        "drivers/char/hw_random",
        "fs/xfs",
        "fs/btrfs",
        "fs/ext4",
        "fs/jbd2",
        "fs/mbcache",
        "fs/configfs",
        "net/sched",
        "net/core",
    )
)
FOLDERS_DROPPED = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/perl",
    "usr/share/info",
    "lib/udev",
    "boot",
)
FOLDERS_MADE = (
    *("proc", "sys", "dev", "run", "tmp", "out", "job", "mnt", "root", "etc", "var"),
    *("usr/lib/applets", "usr/local/bin"),
)
LOADER = "lib64/ld-linux-x86-64.so.2"
LIBRARIES = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")


@dataclass(frozen=True, slots=True)
class Image:
    """Files of one built guest in the cache."""

    home: Path

    @property
    def kernel(self) -> Path:
        """User Mode Linux, a program of this host."""
        return self.home / "kernel"

    @property
    def root(self) -> Path:
        """The root file system, ext4, read only."""
        return self.home / "root.img"

    @property
    def busybox(self) -> Path:
        """A static busybox, also used on the host for `ip`."""
        return self.home / "busybox"

    @property
    def is_ready(self) -> bool:
        """Whether it was built to the end."""
        return (self.home / "ready").exists()


def cache_directory() -> Path:
    """Where images are kept."""
    chosen = os.environ.get("CSTOR_CACHE")
    return (Path(chosen) if chosen else REPOSITORY / ".cache") / "linux-initiator"


def get_image() -> Image:
    """The guest's image, built now if it is not in the cache.

    Raises HarnessError when packages cannot be had or do not hold what is expected.
    """
    cache = cache_directory()
    image = Image(cache / f"guest-{_recipe_digest()}")
    if image.is_ready:
        return image
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not image.is_ready:
            shutil.rmtree(image.home, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix="build.", dir=cache) as work:
                _build(image, Path(work))
            (image.home / "ready").touch()
    return image


def get_shim() -> Path:
    """The library to preload where the processor has AMX, compiled now if need be.

    Raises HarnessError where there is no C compiler, with the packages to install.
    """
    source = GUEST_FILES / "xstate_shim.c"
    cache = cache_directory()
    shim = cache / f"shim-{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}.so"
    if not shim.exists():
        with tempfile.TemporaryDirectory(prefix="build.", dir=cache) as work:
            built = Path(work) / "shim.so"
            flags = ["-O2", "-shared", "-fPIC", "-o", str(built)]
            check([program("cc"), *flags, str(source), "-ldl"])
            built.rename(shim)
    return shim


def _recipe_digest() -> str:
    recipe = hashlib.sha256(repr((GUEST_PACKAGES, KERNEL_PACKAGE)).encode())
    recipe.update(repr((MODULES_KEPT, FOLDERS_DROPPED, FOLDERS_MADE)).encode())
    for name in ("init.sh", "host.sh"):
        recipe.update((GUEST_FILES / name).read_bytes())
    return recipe.hexdigest()[:12]


def _build(image: Image, work: Path) -> None:
    root = work / "root"
    unpack(Apt(work).download(), root)
    image.home.mkdir()
    shutil.move(root / "usr/bin/linux.uml", image.kernel)
    _place_modules(root)
    _place_files(root)
    shutil.copy(root / "bin/busybox", image.busybox)
    _make_file_system(root, image.root)


def _place_modules(root: Path) -> None:
    """Move the kernel's modules to where modprobe looks, without those that no test loads."""
    (packaged,) = (root / "usr/lib/uml/modules").iterdir()
    modules = root / "lib/modules" / packaged.name
    modules.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(packaged, modules)
    for path in list(modules.rglob("*.ko*")):
        if not str(path.relative_to(modules)).startswith(MODULES_KEPT):
            path.unlink()
    if not list(modules.glob("kernel/drivers/scsi/iscsi_tcp.ko*")):
        raise HarnessError(f"the kernel {modules.name} has no iscsi_tcp module")
    check([str(root / "bin/busybox"), "depmod", "-b", str(root), modules.name])


def _place_files(root: Path) -> None:
    """Drop what the guest does not need and add what makes the packages a system."""
    for folder in FOLDERS_DROPPED:
        shutil.rmtree(root / folder, ignore_errors=True)
    for folder in FOLDERS_MADE:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for applet in check([str(root / "bin/busybox"), "--list"]).split():
        (root / "usr/lib/applets" / applet).symlink_to("/bin/busybox")
    shell = root / "bin/sh"
    if not (shell.exists() or shell.is_symlink()):
        shell.symlink_to("bash")
    (root / "etc/mtab").symlink_to("/proc/self/mounts")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    (root / "etc/group").write_text("root:x:0:\ndisk:x:6:\n")
    for name, place in (("init.sh", "sbin/guest-init"), ("host.sh", "usr/local/bin/host")):
        shutil.copy(GUEST_FILES / name, root / place)
        (root / place).chmod(0o755)


def _make_file_system(root: Path, image: Path) -> None:
    """Make the image with the guest's own mke2fs, so that this host needs none."""
    used_kib = int(check(["du", "-sk", str(root)]).split()[0])
    size_kib = used_kib * 11 // 10 + 32 * 1024
    libraries = ":".join(str(root / folder) for folder in LIBRARIES)
    loader = [str(root / LOADER), "--library-path", libraries]
    options = ["-q", "-t", "ext4", "-O", "^has_journal", "-E", "root_owner=0:0", "-d", str(root)]
    check([*loader, str(root / "sbin/mke2fs"), *options, str(image), f"{size_kib}k"])
