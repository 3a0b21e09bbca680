"""The run's log as JSON lines, including messages of Ray and native libraries."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

from actors.log_lines import JsonLines
from actors.storage import layout
from actors.storage.object_store import ObjectStore
from jobs.run.log_files import LogFile, LogSegments

log = logging.getLogger("shopframe")


@dataclass(frozen=True, slots=True)
class RunLog:
    """The log of a run.

    Attributes:
        terminal: A stream to the terminal's standard error.
        uri: Where the log is: a file, or a folder of objects.
        run_id: Id of the run, which is in each line.
    """

    terminal: TextIO
    uri: str
    run_id: str


@contextmanager
def run_log(store: ObjectStore, run_id: str | None = None) -> Iterator[RunLog]:
    """Write the run's log to the output, so that the terminal shows only messages for the user.

    Standard error is redirected: whatever Python and native libraries write there becomes log lines. Each
    line has the id of its run and the name of the machine that logged it.

    Args:
        store: The output.
        run_id: Id of the run, by default a new one.
    """
    run_id = run_id or layout.new_run_id()
    handler = LogFile(store) if store.is_local else LogSegments(store, run_id)
    handler.setFormatter(JsonLines(run_id))
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    try:
        with _stderr_to_log() as terminal:
            uri = store.uri_of(layout.LOG if store.is_local else layout.log_folder(run_id))
            yield RunLog(terminal, uri, run_id)
    except BaseException as error:
        # The traceback is not logged, because the command shows it where it is useful.
        log.error("stopped: %s: %s", type(error).__name__, error)  # noqa: TRY400
        raise
    finally:
        root.handlers[:], root.level = before, level
        handler.close()


def warn(message: str | None, terminal: TextIO) -> None:
    """Write a warning to the log and to the terminal. None is no warning."""
    if message is not None:
        log.warning(message)
        print(f"warning: {message}", file=terminal)


@contextmanager
def _stderr_to_log() -> Iterator[TextIO]:
    native = logging.getLogger("native")
    sys.stderr.flush()
    terminal_fd = os.dup(2)
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)

    def pump() -> None:
        with os.fdopen(reading, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.strip():
                    native.info(line.rstrip())

    thread = threading.Thread(target=pump, name="stderr-to-log", daemon=True)
    thread.start()
    terminal = os.fdopen(os.dup(terminal_fd), "w", encoding="utf-8", buffering=1)
    try:
        yield terminal
    finally:
        sys.stderr.flush()
        os.dup2(terminal_fd, 2)
        os.close(terminal_fd)
        # A child process that outlives the run keeps the pipe open, so this doesn't wait for it.
        thread.join(timeout=1)
        terminal.close()


def iso_now() -> str:
    """Return the current time in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
