"""Pods of the manifests, without a cluster: podman runs their containers as the templates say, and
network namespaces stand for nodes.

What a kubelet does is done here by hand: directories for claims and for what ends with the pod,
containers that prepare it, the names of the cluster in resolv.conf, no more rights than the
template gives.
"""

from __future__ import annotations

import itertools
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.system.hosts import THIS_MACHINE, Host
from tests.system.manifests import Document, environment
from tests.system.tools import HarnessError, check, program, run

IMAGE_USER = 10001
START_S_MAX = 60.0
RUN_S_MAX = 120.0
ENGINE_SETTINGS = """\
[containers]
default_ulimits = ["nofile={files}:{files}", "nproc=1024:1024"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
"""
"""What podman needs where no systemd runs."""


@dataclass(frozen=True, slots=True)
class Kubelet:
    """What runs pods, with a directory for what they keep."""

    directory: Path
    documents: list[Document]
    resolver: Path | None = None
    """A file in the place of /etc/resolv.conf."""
    secrets: Mapping[str, Path] = field(default_factory=dict)
    """Directories of the Secrets that there are."""

    def podman(self, *words: str | Path, timeout_s: float = RUN_S_MAX) -> str:
        """What a command of podman prints.  Raises HarnessError where it fails."""
        return check(self._command(*words), timeout_s=timeout_s)

    def try_podman(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command of podman, whatever its status."""
        return run(self._command(*words), timeout_s=RUN_S_MAX)

    def _command(self, *words: str | Path) -> list[str]:
        settings = self.directory / "containers.conf"
        _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
        settings.write_text(ENGINE_SETTINGS.format(files=files))
        return ["env", f"CONTAINERS_CONF={settings}", program("podman"), *map(str, words)]


class Pod:
    """One pod: from `start` to `delete`, with as many lives of its container as it takes."""

    _numbers = itertools.count()

    def __init__(
        self,
        kubelet: Kubelet,
        template: Document,
        *,
        node: Host = THIS_MACHINE,
        claim: str = "",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """`claim` names the directory that outlives the pod; `settings` replace variables."""
        self._kubelet = kubelet
        self._spec = template["spec"]
        self._node = node
        self._claim = claim
        self._settings = dict(settings or {})
        self.name = f"cstor-test-{os.getpid()}-{next(self._numbers)}"

    def setting(self, name: str) -> str:
        """A variable that its container finds."""
        (container,) = self._spec["containers"]
        return (environment(container, self._kubelet.documents) | self._settings)[name]

    def start(self) -> None:
        """Prepare it, and start its container."""
        for container in self._spec.get("initContainers", []):
            self._kubelet.podman("run", "--rm", *self._flags(container))
        (container,) = self._spec["containers"]
        self._kubelet.podman("run", "--detach", f"--name={self.name}", *self._flags(container))

    def restart(self) -> None:
        """Start its container again, as a kubelet does when it has ended."""
        self._kubelet.podman("start", self.name)

    def kill(self) -> None:
        """`kill -9` its container."""
        self._kubelet.podman("kill", "--signal=KILL", self.name)
        self._kubelet.podman("wait", self.name)

    def stop(self) -> int:
        """SIGTERM, and SIGKILL when it has had its time; the exit code."""
        grace_s = self._spec["terminationGracePeriodSeconds"]
        self._kubelet.podman("stop", f"--time={grace_s}", self.name)
        return self.exit_code()

    def exit_code(self) -> int:
        """That of its container, once it has ended."""
        return int(self._kubelet.podman("wait", self.name))

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command in its container, as a probe does."""
        return self._kubelet.try_podman("exec", self.name, *words)

    def is_well(self, probe: str) -> bool:
        """Whether a probe of its container that is a command succeeds."""
        (container,) = self._spec["containers"]
        return self.run(*container[probe]["exec"]["command"]).returncode == 0

    def wait_until(self, *words: str) -> None:
        """Wait until a command succeeds in its container.  Raises HarnessError with its log."""
        deadline = time.monotonic() + START_S_MAX
        while (ended := self.run(*words)).returncode != 0:
            if time.monotonic() > deadline:
                raise HarnessError(f"{words} in {self.name}: {ended.stdout}\n{self.logs()}")
            time.sleep(0.2)

    def logs(self) -> str:
        """What it has said."""
        return self._kubelet.try_podman("logs", self.name).stdout

    def delete(self) -> None:
        """Nothing is left of it but its claim."""
        self._kubelet.try_podman("rm", "--force", "--time=0", self.name)
        shutil.rmtree(self._kubelet.directory / self.name, ignore_errors=True)

    def _flags(self, container: Document) -> list[str | Path]:
        pod, own = self._spec["securityContext"], container["securityContext"]
        settings = environment(container, self._kubelet.documents) | self._settings
        namespace = self._node.namespace
        network = f"ns:/run/netns/{namespace}" if namespace else "host"
        flags: list[str | Path] = [f"--user={pod['runAsUser']}:{pod['runAsGroup']}"]
        flags += [f"--network={network}", "--restart=no"]
        flags += [f"--cap-drop={each}" for each in own["capabilities"]["drop"]]
        flags += ["--read-only", "--read-only-tmpfs=false"] * own["readOnlyRootFilesystem"]
        flags += ["--security-opt=no-new-privileges"] * (not own["allowPrivilegeEscalation"])
        flags += [f"--env={name}={value}" for name, value in settings.items()]
        for mount in container.get("volumeMounts", []):
            source = self._source(mount["name"])
            if source is not None:
                flags += ["--volume", f"{source}:{mount['mountPath']}"]
        if self._kubelet.resolver is not None:
            flags += ["--volume", f"{self._kubelet.resolver}:/etc/resolv.conf:ro"]
        return [*flags, container["image"], *container["args"]]

    def _source(self, name: str) -> Path | None:
        """The directory of one of its volumes; None for a Secret that there is not."""
        kinds = {volume["name"]: volume for volume in self._spec.get("volumes", [])}
        if name not in kinds:
            directory = self._kubelet.directory / self._claim
        elif "secret" in kinds[name]:
            return self._kubelet.secrets.get(kinds[name]["secret"]["secretName"])
        else:
            directory = self._kubelet.directory / self.name / name
        if not directory.exists():
            # As a kubelet lets the group of the pod have its volumes.
            directory.mkdir(parents=True)
            os.chown(directory, 0, self._spec["securityContext"]["fsGroup"])
            directory.chmod(0o2770)
        return directory
