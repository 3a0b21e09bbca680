"""The lines of a run's log: JSON with the run, the machine, and the shard and attempt that a line is about.

The driver writes them to the output. A worker writes its lines to its own standard error, which Ray keeps on
its node, and passes warnings and errors on to the driver: those of the stages at once, and those of Gemini's
actors with their next answer to the driver.
"""

from __future__ import annotations

import logging
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from pythonjsonlogger.json import JsonFormatter

LineFields = Mapping[str, Any]
"""Attributes of a `logging.LogRecord` that a worker passes on."""

MOST_LINES = 1000
"""Number of lines of workers that wait for the driver. The oldest of too many is dropped."""

NODE = socket.gethostname()
"""Name of this machine."""

_shard: ContextVar[Mapping[str, object] | None] = ContextVar("shard", default=None)


@contextmanager
def about_shard(shard_id: str, attempt: int | None = None) -> Iterator[None]:
    """Mark the lines that are logged in this context as being about a shard and, if known, an attempt."""
    with _about(_fields(shard_id, attempt)):
        yield


@contextmanager
def about_shards(attempts: Iterable[tuple[str, int | None]]) -> Iterator[None]:
    """Mark the lines that are logged in this context as being about attempts, which may be at many shards.

    Args:
        attempts: Ids of shards with the number of the attempt at each, in any order, also more than once.
    """
    fields = [_fields(*one) for one in sorted(set(attempts), key=str)]
    about = fields[0] if len(fields) == 1 else {"shards": fields} if fields else {}
    with _about(about):
        yield


def _fields(shard_id: str, attempt: int | None) -> Mapping[str, object]:
    return {"shard_id": shard_id} if attempt is None else {"shard_id": shard_id, "attempt": attempt}


@contextmanager
def _about(fields: Mapping[str, object]) -> Iterator[None]:
    token = _shard.set(fields)
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


class NewLines:
    """The warnings and errors of this worker that the driver hasn't got yet.

    Args:
        run_id: Id of the run whose lines this process logs from now on. Without one, it logs as before, and
            no lines are kept.
    """

    def __init__(self, run_id: str | None) -> None:
        self._lines: deque[LineFields] = deque(maxlen=MOST_LINES)
        if run_id is not None:
            log_as_worker(run_id, self._lines.append)

    def take(self) -> tuple[LineFields, ...]:
        """Return the lines since the last call."""
        return tuple(self._lines.popleft() for _ in range(len(self._lines)))


def log_passed_on(fields: LineFields) -> None:
    """Log what a worker has passed on."""
    logging.getLogger(str(fields["name"])).handle(logging.makeLogRecord(dict(fields)))
