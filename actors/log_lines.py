"""The lines of a run's log: JSON with the run, the machine, and the shard and attempt that a line is about.

The driver writes them to the output. A worker writes its lines to its own standard error, which Ray keeps on
its node, and passes warnings and errors on to the driver.
"""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from pythonjsonlogger.json import JsonFormatter

LineFields = Mapping[str, Any]
"""Attributes of a `logging.LogRecord` that a worker passes on."""

NODE = socket.gethostname()
"""Name of this machine."""

_shard: ContextVar[Mapping[str, object] | None] = ContextVar("shard", default=None)


@contextmanager
def about_shard(shard_id: str, attempt: int) -> Iterator[None]:
    """Mark the lines that are logged in this context as being about an attempt at a shard."""
    token = _shard.set({"shard_id": shard_id, "attempt": attempt})
    try:
        yield
    finally:
        _shard.reset(token)


class JsonLines(JsonFormatter):
    """Formats records as lines of JSON.

    Args:
        run_id: Id of the run.
    """

    def __init__(self, run_id: str) -> None:
        super().__init__(
            "{asctime}{levelname}{name}{message}",
            style="{",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            static_fields={"run_id": run_id},
        )

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        """Add the fields of a line. A record that another machine has passed on keeps its own."""
        super().add_fields(log_data, record, message_dict)
        for name, value in {"node": NODE, **(_shard.get() or {})}.items():
            log_data.setdefault(name, value)


class _PassOn(logging.Handler):
    def __init__(self, send: Callable[[LineFields], object]) -> None:
        super().__init__(logging.WARNING)
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        formatter = logging.Formatter()
        self._send(
            {
                "name": record.name,
                "levelno": record.levelno,
                "levelname": record.levelname,
                "msg": record.getMessage(),
                "created": record.created,
                "msecs": record.msecs,
                "exc_text": formatter.formatException(record.exc_info) if record.exc_info else None,
                "node": NODE,
                **(_shard.get() or {}),
            }
        )


_logged_run: list[str] = []


def log_as_worker(run_id: str, send: Callable[[LineFields], object]) -> None:
    """Let this process log the lines of a run, unless it does already.

    Args:
        run_id: Id of the run.
        send: Passes a warning or an error on to the driver.
    """
    if _logged_run == [run_id]:
        return
    _logged_run[:] = [run_id]
    here = logging.StreamHandler(sys.stderr)
    here.setFormatter(JsonLines(run_id))
    root = logging.getLogger()
    root.handlers[:] = [here, _PassOn(send)]
    root.setLevel(logging.INFO)


def log_passed_on(fields: LineFields) -> None:
    """Log what a worker has passed on."""
    logging.getLogger(str(fields["name"])).handle(logging.makeLogRecord(dict(fields)))
