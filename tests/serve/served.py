"""A small output of two annotators, and a server of its page in a thread of the test."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

from actors.corrections.decision import Decision
from actors.corrections.decision_log import read_decisions
from actors.records import Annotation
from actors.storage.object_store import ObjectStore
from jobs.serving.server import start
from jobs.serving.session import Session
from jobs.settings import Settings
from tests.support import bad_inputs as bad
from tests.support.committed import FRAME_HEIGHT_PX, FRAME_WIDTH_PX, Found, said, write_output
from tests.support.in_process import run_in_process

LEFT, MIDDLE, RIGHT = (0.1, 0.1, 0.2, 0.6), (0.4, 0.2, 0.5, 0.8), (0.7, 0.3, 0.85, 0.95)
SHARDS = ("a", "b")
FRAMES = ("f", "g", "h")
_RESTORED = ("consolidated", "consolidated_frames")
CAMERAS = {"f": "till", "g": "till", "h": "<b>door</b>"}
"""A camera's name is nobody's markup."""
TIMES = {"f": datetime(2026, 5, 1, 9, 30, tzinfo=UTC), "g": datetime(2026, 5, 2, 9, 45, tzinfo=UTC)}


def _said(confidence: dict[str, float] | None = None, **values: Any) -> Annotation:
    return said(confidence, hood=False, **values)


def persons(number: int) -> list[Found]:
    """Three persons, of whom the annotators disagree about some, and one who is dropped."""
    sure = 0.55 + (number % 4) / 10
    return [
        Found(
            LEFT,
            score=0.9,
            answers={
                "smolvlm": _said(
                    {"gender": sure, "glasses": 0.95}, gender="male", exact_age=30, age_group="28 to 38"
                ),
                "gemini": _said(
                    gender="male" if number % 2 else "female", exact_age=70, age_group="28 to 38"
                ),
            },
        ),
        Found(
            MIDDLE,
            score=0.8,
            answers={
                "smolvlm": _said(
                    {"gender": 0.99, "glasses": 0.98}, gender="female", exact_age=40, age_group="38 to 48"
                ),
                "gemini": _said(gender="female", exact_age=40, age_group="38 to 48"),
            },
        ),
        Found(
            RIGHT,
            score=0.7,
            answers={
                "smolvlm": _said({"gender": 0.7}, gender="unknown", exact_age=None, age_group="unknown")
            },
        ),
        Found((0.9, 0.1, 0.92, 0.15), score=0.5, kept=False),
    ]


class Output:
    """The output in a folder, with its input."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.source, self.path, self.cache = folder / "in", folder / "out", folder / "cache"
        self.store = ObjectStore(str(self.path))
        self._monkeypatch = monkeypatch
        self.source.mkdir()
        for number, shard_id in enumerate(SHARDS):
            images = {
                f"{key}.jpg": bad.jpeg(FRAME_WIDTH_PX, FRAME_HEIGHT_PX, 10 * number + seed)
                for seed, key in enumerate(FRAMES)
            }
            (self.source / f"{shard_id}.tar").write_bytes(bad.tar(images))
        self.settings = Settings.model_validate(
            {"input": {"uri": str(self.source)}, "output": {"uri": str(self.path)}}
        )
        shards = {
            shard_id: {key: persons(3 * n + m) for m, key in enumerate(FRAMES)}
            for n, shard_id in enumerate(SHARDS)
        }
        write_output(self.store, shards, self.settings, cameras=CAMERAS, times=TIMES, keep_crops="never")
        self.consolidate()
        self._saved = folder / "saved"
        for part in _RESTORED:
            shutil.copytree(self.path / part, self._saved / "out" / part)
        shutil.copytree(self.source, self._saved / "in", copy_function=shutil.copy2)

    def restore(self) -> None:
        """Forget what a test has decided, consolidated and deleted."""
        for part in ("corrections", "analysis"):
            shutil.rmtree(self.path / part, ignore_errors=True)
        shutil.rmtree(self.cache, ignore_errors=True)
        for part in _RESTORED:
            shutil.rmtree(self.path / part)
            shutil.copytree(self._saved / "out" / part, self.path / part)
        shutil.copytree(self._saved / "in", self.source, dirs_exist_ok=True, copy_function=shutil.copy2)

    def consolidate(self) -> None:
        assert run_in_process(self._monkeypatch, "consolidate", "--output", self.path) == 0

    def decisions(self) -> list[Decision]:
        found = [decision for of in read_decisions(self.store).values() for decision in of]
        return sorted(found, key=lambda decision: decision.decided_at)

    def rows(self, columns: str, where: str = "true") -> list[tuple[Any, ...]]:
        """Rows of the consolidated table on the disk."""
        table = f"'{self.path}/consolidated/*.parquet'"
        order = "ORDER BY shard_id, frame_key, person_index"
        return duckdb.sql(f"SELECT {columns} FROM {table} WHERE {where} {order}").fetchall()

    def served(self) -> AbstractContextManager[Client]:
        """A server of the output, in a thread."""
        return served(self.store, self.cache)


@contextmanager
def served(store: ObjectStore, cache: Path) -> Iterator[Client]:
    """A server of an output, in a thread."""
    session = Session(store, "ann", cache, 1 << 24)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    running = asyncio.run_coroutine_threadsafe(start(session, "127.0.0.1", 0), loop).result()
    try:
        yield Client(running.address)
    finally:
        asyncio.run_coroutine_threadsafe(running.runner.cleanup(), loop).result()
        session.close()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class Client:
    """Sends requests to a server as its own page would."""

    def __init__(self, address: str) -> None:
        self.address = address

    def get(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of a response."""
        address = path if path.startswith("http") else self.address + path
        return _send(urllib.request.Request(address, headers=headers or {}))

    def post(self, path: str, content: object = None, **headers: str) -> tuple[int, Any]:
        """Return status and JSON of the response to a request of the API."""
        request = urllib.request.Request(
            f"{self.address}api/{path}",
            data=json.dumps({} if content is None else content).encode(),
            headers={"Content-Type": "application/json"}
            | {n.replace("_", "-"): v for n, v in headers.items()},
        )
        status, _, body = _send(request)
        return status, json.loads(body) if body.startswith((b"{", b"[")) else body.decode()

    def ask(self, path: str, **content: object) -> Any:
        """Return the JSON of a successful response."""
        status, answer = self.post(path, content)
        assert status == 200, answer
        return answer

    def ids(self, queue: str = "all", *conditions: dict[str, Any], **view: object) -> list[int]:
        """Return the ids of the persons of a view, chosen afresh."""
        view = {"queue": queue, "conditions": conditions, **view}
        return [p["id"] for p in self.ask("persons", view=view, fresh=True)["persons"]]


def _send(request: urllib.request.Request) -> tuple[int, dict[str, str], bytes]:
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, dict(response.headers), response.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()
