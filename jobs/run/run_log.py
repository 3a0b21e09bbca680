"""`processing.log`: the run's log as JSON lines, including messages of Ray and native libraries."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from pythonjsonlogger.json import JsonFormatter

from actors.storage import layout
from actors.storage.object_store import ObjectStore
from actors.storage.store_errors import STORAGE_ERRORS

log = logging.getLogger("shopframe")

_UPLOAD_EVERY_S = 30.0
_LONGEST_LOG_BYTES = 64 << 20


@contextmanager
def run_log(store: ObjectStore) -> Iterator[TextIO]:
    """Write the run's log to the output, so that the terminal shows only messages for the user.

    Standard error is redirected: whatever Python and native libraries write there becomes log lines. The log
    of earlier runs is kept, up to 64 MiB.

    Yields:
        A stream to the terminal's standard error.
    """
    with tempfile.TemporaryDirectory(prefix="shopframe-") as folder:
        path = Path(store.full(layout.LOG)) if store.is_local else Path(folder) / layout.LOG
        path.parent.mkdir(parents=True, exist_ok=True)
        if not store.is_local:
            with suppress(FileNotFoundError):
                path.write_bytes(store.read(layout.LOG))
        if path.exists() and path.stat().st_size > _LONGEST_LOG_BYTES:
            path.unlink()
        handler = logging.FileHandler(path, encoding="utf-8")
        handler.setFormatter(
            JsonFormatter(
                "{asctime}{levelname}{name}{message}",
                style="{",
                rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            )
        )
        root = logging.getLogger()
        before, level = root.handlers[:], root.level
        root.handlers[:] = [handler]
        root.setLevel(logging.INFO)
        stop = threading.Event()
        uploader = threading.Thread(target=_upload, args=(store, path, stop), daemon=True)
        if not store.is_local:
            uploader.start()
        try:
            with _stderr_to_log() as terminal:
                yield terminal
        except BaseException as error:
            # The traceback is not logged, because the command shows it where it is useful.
            log.error("stopped: %s: %s", type(error).__name__, error)  # noqa: TRY400
            raise
        finally:
            stop.set()
            root.handlers[:], root.level = before, level
            handler.close()
            if not store.is_local:
                uploader.join()


def warn(message: str | None, terminal: TextIO) -> None:
    """Write a warning to the log and to the terminal. None is no warning."""
    if message is not None:
        log.warning(message)
        print(f"warning: {message}", file=terminal)


def _upload(store: ObjectStore, path: Path, stop: threading.Event) -> None:
    sent = -1
    while True:
        last = stop.wait(_UPLOAD_EVERY_S)
        if path.stat().st_size != sent:
            content = path.read_bytes()
            # If the store can't be reached, the commits report it.
            with suppress(*STORAGE_ERRORS):
                store.write(layout.LOG, content)
                sent = len(content)
        if last:
            return


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
