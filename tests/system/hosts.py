"""Several hosts on this machine: network namespaces around a switch, and daemons by hand in them.

Each host has a network of its own with one address; all are plugged into a bridge in a namespace
that has no other way out, so that nothing of the machine's own network is touched or reached.  A
cable can be pulled: then packets just stop, which no process is told of, as when a host or a switch
loses power.  Making namespaces takes root and iproute2.

A daemon is started as a person or an init system would start it: its command, with settings as
flags, in the environment and in a TOML file, its logs on standard error or in a file.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.system.nbd import NbdClient
from tests.system.processes import kill
from tests.system.tools import HarnessError, check, program, qemu, run

NETWORK = "10.213.77"
"""The hosts' addresses; they exist within the namespaces only."""
START_S_MAX = 30.0
STOP_S_MAX = 30.0
COMMAND_S_MAX = 60.0
POLL_S = 0.05
LOG_TAIL_BYTES = 4000
ENVIRONMENT_PREFIX = "CSTOR_"
Setting = str | Sequence[str]


@dataclass(frozen=True, slots=True)
class Host:
    """One host: a namespace with an address, and its port of the switch.

    Without a namespace it is this machine, which has no cable to be pulled.
    """

    name: str
    namespace: str
    address: str
    switch: str
    mounts: tuple[tuple[Path, str], ...] = ()
    """Files that its commands find in the place of this machine's, such as one for /etc/hosts."""

    def command(self, *words: str | Path) -> list[str]:
        """The words as a command line that runs on this host."""
        there = [program("ip"), "netns", "exec", self.namespace] if self.namespace else []
        for file, place in self.mounts:
            # `ip netns exec` gives each command mounts of its own.
            there += ["sh", "-c", 'mount --bind "$0" "$1" && shift && exec "$@"', str(file), place]
        return [*there, *map(str, words)]

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command on this host to its end, whatever its status; as `tools.run`."""
        return run(self.command(*words), timeout_s=COMMAND_S_MAX)

    def check(self, *words: str | Path) -> str:
        """Run a command on this host that must succeed; as `tools.check`."""
        return check(self.command(*words), timeout_s=COMMAND_S_MAX)

    def pull_cable(self) -> None:
        """From now on nothing comes to this host or from it; it still reaches itself."""
        self._set_port("down")

    def plug_in(self) -> None:
        """The cable is back."""
        self._set_port("up")

    def _set_port(self, state: str) -> None:
        _ip("-n", self.switch, "link", "set", self.name, state)


THIS_MACHINE = Host("this-machine", namespace="", address="127.0.0.1", switch="")


def _ip(*words: str) -> None:
    check([program("ip"), *words])


@contextlib.contextmanager
def network(*names: str) -> Iterator[dict[str, Host]]:
    """Hosts of these names (of at most 15 letters), joined; they are gone at the end.

    Raises HarnessError where namespaces cannot be made.
    """
    if os.geteuid() != 0:
        raise HarnessError("hosts of a test are network namespaces, which take root: run it so")
    unique = f"cstor-test-{os.getpid()}"
    switch = f"{unique}-switch"
    with contextlib.ExitStack() as stack:
        _namespace(switch, stack)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        hosts = {}
        for number, name in enumerate(names, 1):
            host = Host(name, f"{unique}-{name}", f"{NETWORK}.{number}", switch)
            _namespace(host.namespace, stack)
            _plug_in(host)
            hosts[name] = host
        yield hosts


def _namespace(name: str, stack: contextlib.ExitStack) -> None:
    """A network namespace for as long as the stack; its devices end with it."""
    _ip("netns", "add", name)
    stack.callback(_ip, "netns", "delete", name)
    _ip("-n", name, "link", "set", "lo", "up")


def _plug_in(host: Host) -> None:
    """Give a host its device and address, and connect it to the bridge."""
    peer = ("peer", "name", "cable", "netns", host.namespace)
    _ip("-n", host.switch, "link", "add", host.name, "type", "veth", *peer)
    _ip("-n", host.switch, "link", "set", host.name, "master", "bridge", "up")
    _ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", "cable")
    _ip("-n", host.namespace, "link", "set", "cable", "up")


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a daemon in the three ways in which they can be given.

    The names are those of the TOML file: `log_format` is `--log-format` as a flag and
    CSTOR_TARGET_LOG_FORMAT in the target's environment.
    """

    flags: Mapping[str, Setting] = field(default_factory=dict)
    environment: Mapping[str, Setting] = field(default_factory=dict)
    file: Mapping[str, Setting] = field(default_factory=dict)

    def arguments(self) -> list[str]:
        """The flags; several values are a flag for each."""
        words = []
        for name, value in self.flags.items():
            values = [value] if isinstance(value, str) else value
            words += [f"--{name.replace('_', '-')}={each}" for each in values]
        return words

    def variables(self, prefix: str) -> dict[str, str]:
        """The environment; several values stand in one variable, with commas."""
        return {
            prefix + name.upper(): value if isinstance(value, str) else ",".join(value)
            for name, value in self.environment.items()
        }

    def toml(self) -> str:
        """The file; text and lists of text are the same in TOML and in JSON."""
        return "".join(f"{name} = {json.dumps(value)}\n" for name, value in self.file.items())


class DaemonByHand:
    """A `cstor-target` or `cstor-replica` on a host, from its start to its end."""

    def __init__(
        self,
        role: str,
        host: Host,
        scratch: Path,
        directory: Path | None,
        settings: Settings,
        program: Sequence[str | Path] = (),
    ) -> None:
        """Start it; `directory` is its argument, if it is not among the settings.

        `program` is what to start in the place of the role's command.  Its ready file, TOML file
        and standard error lie in `scratch`.
        """
        self.host = host
        # A number, since there may be one after the other on a host.
        self.name = f"{role}-on-{host.name}-{len(list(scratch.glob('*.stderr')))}"
        self.stderr = scratch / f"{self.name}.stderr"
        self._ready_file = scratch / f"{self.name}.ready"
        config = scratch / f"{self.name}.toml"
        config.write_text(settings.toml())
        command = program or [Path(sys.executable).parent / role]
        words = [*command, *([directory] if directory is not None else [])]
        prefix = role.upper().replace("-", "_") + "_"
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(ENVIRONMENT_PREFIX)
        }
        with self.stderr.open("wb") as out:
            # `ip netns exec` becomes the command, so that the process is the daemon itself.
            self._process = subprocess.Popen(
                host.command(
                    *words,
                    *settings.arguments(),
                    f"--config={config}",
                    f"--ready-file={self._ready_file}",
                ),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                # Nobody else is in the network of a test.
                env={f"{prefix}INSECURE_NETWORK": "true"} | inherited | settings.variables(prefix),
            )

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether the process lives."""
        return self._process.poll() is None

    def wait_until_ready(self) -> dict[str, Any]:
        """Wait for the ready file and return what it says.

        Raises HarnessError when the daemon has ended, or takes more than START_S_MAX.
        """
        deadline = time.monotonic() + START_S_MAX
        while not self._ready_file.exists():
            if not self.runs or time.monotonic() > deadline:
                raise HarnessError(f"{self.name} is not ready:\n{tail_of(self.stderr)}")
            time.sleep(POLL_S)
        facts: dict[str, Any] = json.loads(self._ready_file.read_text())
        assert facts["pid"] == self._process.pid
        return facts

    def terminate(self) -> int:
        """Send SIGTERM, and return the exit code; as `wait`."""
        self._process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end, and return the exit code.

        Raises HarnessError when that takes more than STOP_S_MAX.
        """
        try:
            code = self._process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired as error:
            raise HarnessError(
                f"{self.name} still runs after {STOP_S_MAX} s:\n{tail_of(self.stderr)}"
            ) from error
        assert not self._ready_file.exists(), f"{self.name} left its ready file"
        return code

    def pause(self) -> None:
        """From now on it does nothing, as when its virtual machine is stopped."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on where it was, and knows nothing of the time between."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """`kill -9`; nothing happens to one that has ended."""
        if self.runs:
            kill([self._process.pid])
            self._process.wait()


def tail_of(log: Path) -> str:
    """The end of a log, for the report of a test that failed; it need not exist."""
    said = log.read_bytes()[-LOG_TAIL_BYTES:] if log.exists() else b"there is no such log"
    return f"--- {log.name}\n{said.decode(errors='replace')}"


def events_of(log: Path) -> list[dict[str, Any]]:
    """The events of a JSON log, each of which must have a name, a level and a time."""
    events = []
    for number, line in enumerate(log.read_text().splitlines(), 1):
        try:
            event = json.loads(line)
        except ValueError:
            raise AssertionError(f"{log.name}:{number} is not JSON: {line[:300]!r}") from None
        assert {"event", "level", "timestamp"} <= event.keys(), f"{log.name}:{number}: {line}"
        events.append(event)
    return events


@contextlib.asynccontextmanager
async def disk_on(host: Host, url: str, scratch: Path) -> AsyncIterator[NbdClient]:
    """The disk at `url` as QEMU's own initiator on `host` sees it.

    A socket in the file system can be reached from every network namespace.  Raises HarnessError
    when QEMU cannot log in.
    """
    socket, log = scratch / f"{host.name}.nbd", scratch / f"{host.name}.qemu-nbd.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            host.command(*(qemu("qemu-nbd"), "-t", "-f", "raw", "--cache=none", "-k", socket), url),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    client: NbdClient | None = None
    deadline = time.monotonic() + START_S_MAX
    try:
        while client is None:
            try:
                client = await NbdClient.connect(socket)
            except (FileNotFoundError, ConnectionRefusedError):
                if process.poll() is not None or time.monotonic() > deadline:
                    said = log.read_text(errors="replace")
                    raise HarnessError(f"qemu-nbd does not serve {url}:\n{said}") from None
                await asyncio.sleep(POLL_S)
        yield client
    finally:
        if client is not None:
            await client.close()
        # Asked to end it would wait for its requests, for ever where the target has gone.
        process.kill()
        process.wait()
        socket.unlink(missing_ok=True)


def end_all(daemons: Sequence[DaemonByHand]) -> None:
    """`kill -9` whatever still runs of these, all before the first is waited for."""
    for daemon in daemons:
        daemon.kill()
