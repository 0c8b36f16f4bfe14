"""Structured logs for the daemons: events with fields, for a person or for a collector.

Every event goes to one place: standard error, or a file that is rotated by size.  Records of the
libraries (grpc, asyncio) take the same way and the same shape.  A level means something: ERROR is
a page for somebody, WARNING is a thing that somebody will want to know, INFO is the daemon's life.
Nothing is logged for a command or a block.
"""

from __future__ import annotations

import logging
import logging.handlers
import sys
from enum import StrEnum
from pathlib import Path

import structlog
from structlog.typing import Processor

from cstor_core.errors import InputError
from cstor_core.units import MIB

FILE_BYTES_MAX = 10 * MIB
FILES_KEPT = 5


class LogFormat(StrEnum):
    """How an event is written: for eyes, or one JSON object a line."""

    CONSOLE = "console"
    JSON = "json"


class LogLevel(StrEnum):
    """From which level on events are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def configure_logs(
    log_format: LogFormat = LogFormat.CONSOLE,
    level: LogLevel = LogLevel.INFO,
    file: Path | None = None,
) -> None:
    """Send all events of the process to standard error, or to `file` where one is named.

    Raises InputError where the file cannot be opened.
    """
    handler: logging.Handler
    if file is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handler = logging.handlers.RotatingFileHandler(
                file, maxBytes=FILE_BYTES_MAX, backupCount=FILES_KEPT, encoding="utf-8"
            )
        except OSError as error:
            raise InputError(
                f"the log file {file} cannot be opened ({error.strerror}): name another"
            ) from error
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_rendering(log_format, colors=file is None and sys.stderr.isatty()),
            ],
        )
    )
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(level.upper())
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def _rendering(log_format: LogFormat, *, colors: bool) -> list[Processor]:
    """The last steps of an event on its way to a line of text."""
    if log_format is LogFormat.JSON:
        return [
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("event"),
            structlog.processors.JSONRenderer(),
        ]
    return [structlog.dev.ConsoleRenderer(colors=colors)]
