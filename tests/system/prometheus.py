"""A Prometheus of a test's own, which scrapes the daemons of a volume, and what it answers."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tests.system.tools import HarnessError, free_port, program
from tests.unit.deploy.monitoring import CONFIGURATION, PROMETHEUS

SCRAPE_S = 2
WAIT_S = 60.0


class Prometheus:
    """One process with the configuration of `deploy/prometheus`, but for where and how often."""

    def __init__(self, directory: Path, targets: dict[str, list[str]]) -> None:
        """`targets` are the addresses of the daemons' metrics by the names of jobs."""
        directory.mkdir()
        configuration = yaml.safe_load(CONFIGURATION.read_text())
        pace = {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s"}
        configuration["global"] |= pace
        configuration["rule_files"] = [
            str(PROMETHEUS / name) for name in configuration["rule_files"]
        ]
        for job in configuration["scrape_configs"]:
            job["static_configs"] = [{"targets": targets[job["job_name"]]}]
        path = directory / "prometheus.yml"
        path.write_text(yaml.safe_dump(configuration))
        self._targets = sum(map(len, targets.values()))
        self._address = f"127.0.0.1:{free_port()}"
        self._log = directory / "log"
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                [
                    program("prometheus"),
                    f"--config.file={path}",
                    f"--storage.tsdb.path={directory / 'data'}",
                    f"--web.listen-address={self._address}",
                ],
                stdout=output,
                stderr=output,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples that an expression has now; raises HarnessError where it is none."""
        asked = urllib.parse.urlencode({"query": expression})
        found: list[dict[str, Any]] = self._get(f"query?{asked}")["result"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        """All alert rules, with their health and the alerts that they raise."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def wait_until_scraped(self, times: int) -> None:
        """Wait until every daemon has been scraped so often, and each rule evaluated since.

        Raises HarnessError when that does not come.
        """
        deadline_s = time.monotonic() + WAIT_S
        wanted = f"count(count_over_time(up[5m]) >= {times})"
        while self._count(wanted) < self._targets or not all(
            rule["health"] == "ok" for rule in self.rules()
        ):
            if time.monotonic() > deadline_s:
                raise HarnessError(f"not scraped within {WAIT_S} s: {self._log.read_text()}")
            time.sleep(0.5)

    def _count(self, expression: str) -> float:
        try:
            found = self.query(expression)
        except OSError:
            return 0.0  # it does not answer yet
        return float(found[0]["value"][1]) if found else 0.0

    def _get(self, path: str) -> Any:
        try:
            with urllib.request.urlopen(
                f"http://{self._address}/api/v1/{path}", timeout=WAIT_S
            ) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise HarnessError(f"{path}: {error.read().decode()}") from error
