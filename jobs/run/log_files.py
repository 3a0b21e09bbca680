"""Where the lines of a run's log go: into one file on a disk, or into objects of the run's own in a store.

Two runs may share an output. On a disk each line is appended by one call, so that no line is torn apart by
another. Object stores can't append, so there each run writes objects of its own, and each of them once.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
from contextlib import suppress
from pathlib import Path

from actors.storage import layout
from actors.storage.object_store import ObjectStore
from actors.storage.store_errors import STORAGE_ERRORS

log = logging.getLogger("shopframe")

_LONGEST_LOG_BYTES = 64 << 20

_SEND_EVERY_S = 10.0

_MOST_WAITING_BYTES = 64 << 20
"""Bytes of lines that wait in memory if the store can't be reached. Later lines are dropped and counted."""


class LogFile(logging.Handler):
    """Appends to `processing.log` on a disk.

    A log of more than 64 MiB is first renamed to `processing.log.1`, in place of the one before.

    Raises:
        OSError: The file can't be opened.
    """

    def __init__(self, store: ObjectStore) -> None:
        super().__init__()
        self._path = path = Path(store.full(layout.LOG))
        self._fd = _open(path)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            # Another run may have renamed the file while this one waited for the lock.
            is_current = path.exists() and os.path.samestat(os.fstat(self._fd), path.stat())
            if is_current and os.fstat(self._fd).st_size > _LONGEST_LOG_BYTES:
                path.replace(store.full(layout.EARLIER_LOG))
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        os.close(self._fd)
        self._fd = _open(path)

    def emit(self, record: logging.LogRecord) -> None:
        """Append a line."""
        # A full disk is reported by the commits. A report from here would go into the log again.
        with suppress(OSError):
            if os.fstat(self._fd).st_nlink == 0:
                # A run that was refused has deleted the log, in which this one had not written yet.
                opened = _open(self._path)
                os.close(self._fd)
                self._fd = opened
            os.write(self._fd, f"{self.format(record)}\n".encode())

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
        super().close()


def _open(path: Path) -> int:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Another run that was refused may delete the folder while it is empty.
        with suppress(FileNotFoundError):
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


def delete_log_of(path: Path, run_id: str) -> None:
    """Delete a log on a disk if all of its lines are those of one run, which has ended.

    Args:
        path: The log. It need not exist.
        run_id: Id of the run.
    """
    try:
        log_file = path.open("rb")
    except FileNotFoundError:
        return
    with log_file:
        fcntl.flock(log_file, fcntl.LOCK_EX)
        if {_run_of(line) for line in log_file} == {run_id}:
            path.unlink(missing_ok=True)


def _run_of(line: bytes) -> object:
    try:
        parsed = json.loads(line)
    except ValueError:
        return None
    return parsed.get("run_id") if isinstance(parsed, dict) else None


class LogSegments(logging.Handler):
    """Sends the lines of a run every ten seconds, as the next of the run's objects.

    A run that is killed loses the lines of the last seconds. While the store can't be reached, lines wait.

    Args:
        store: The output.
        run_id: Name of the run.
    """

    def __init__(self, store: ObjectStore, run_id: str) -> None:
        super().__init__()
        self._store = store
        self._run_id = run_id
        self._keeping = threading.Lock()
        self._lines: list[bytes] = []
        self._waiting_bytes = 0
        self._dropped = 0
        self._sent = 0
        self._ended = threading.Event()
        self._sending = threading.Thread(target=self._send_regularly, name="log", daemon=True)
        self._sending.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line until it is sent."""
        line = f"{self.format(record)}\n".encode()
        with self._keeping:
            if self._waiting_bytes + len(line) > _MOST_WAITING_BYTES:
                self._dropped += 1
                return
            self._keep(line)

    def close(self) -> None:
        """Send the last lines."""
        self._ended.set()
        self._sending.join()
        super().close()

    def _keep(self, line: bytes) -> None:
        self._lines.append(line)
        self._waiting_bytes += len(line)

    def _send_regularly(self) -> None:
        while not self._ended.wait(_SEND_EVERY_S):
            self._send()
        self._send()

    def _send(self) -> None:
        with self._keeping:
            if self._dropped:
                text = f"{self._dropped} lines of the log were dropped while the store could not be reached"
                record = log.makeRecord(log.name, logging.WARNING, __file__, 0, text, (), None)
                self._keep(f"{self.format(record)}\n".encode())
                self._dropped = 0
            lines = self._lines[:]
        if not lines:
            return
        # If the store can't be reached, the commits report it. These lines are then sent with the next ones,
        # under the same name, because the store may have taken them without an answer.
        with suppress(*STORAGE_ERRORS):
            self._store.write(layout.log_path(self._run_id, self._sent + 1), b"".join(lines))
            self._sent += 1
            with self._keeping:
                del self._lines[: len(lines)]
                self._waiting_bytes -= sum(map(len, lines))
