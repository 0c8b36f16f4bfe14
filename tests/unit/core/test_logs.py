"""Logs: events with fields, in both forms, in one place."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from cstor_core import logs
from cstor_core.errors import InputError
from cstor_core.logs import LogFormat, LogLevel, configure_logs


@pytest.fixture(autouse=True)
def undone() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    for handler in handlers:
        root.removeHandler(handler)
    yield
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    structlog.reset_defaults()


def test_an_event_is_a_json_object_with_its_fields(tmp_path: Path) -> None:
    file = tmp_path / "logs" / "daemon.log"
    configure_logs(LogFormat.JSON, LogLevel.INFO, file)
    structlog.get_logger().info("started", port=7778)
    structlog.get_logger().debug("unheard")
    logging.getLogger("grpc").warning("a library %s", "speaks")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["started", "a library speaks"]
    assert lines[0]["port"] == 7778
    assert lines[0]["level"] == "info"
    assert lines[0]["timestamp"].endswith("Z")


def test_the_console_form_is_one_line_and_goes_to_standard_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logs()
    structlog.get_logger().info("started", port=7778)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "started" in captured.err
    assert "port=7778" in captured.err
    assert len(captured.err.splitlines()) == 1


def test_a_file_is_rotated_and_only_so_many_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "FILE_BYTES_MAX", 1000)
    monkeypatch.setattr(logs, "FILES_KEPT", 2)
    configure_logs(LogFormat.JSON, LogLevel.INFO, tmp_path / "daemon.log")
    for number in range(100):
        structlog.get_logger().info("started", number=number)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["daemon.log", "daemon.log.1", "daemon.log.2"]


def test_a_log_file_that_cannot_be_opened_is_an_error() -> None:
    with pytest.raises(InputError, match="log file"):
        configure_logs(file=Path("/proc/nothing/daemon.log"))
