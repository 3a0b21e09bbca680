"""From which address pictures are read is said by the configuration of each command, never by the output:
whoever can write to the output could put the address of another server there.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest

from actors.storage.object_store import ObjectStore
from jobs.serving.session import Session
from jobs.settings import Settings
from tests.support import bad_inputs as bad
from tests.support.committed import FRAME_HEIGHT_PX, FRAME_WIDTH_PX, Found, said, write_output
from tests.support.in_process import run_in_process

JPEG = b"\xff\xd8"


@pytest.fixture
def stranger() -> Iterator[tuple[str, list[bytes]]]:
    """The URL of a server that nobody has configured, and the first bytes of each request that it got."""
    got: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection = listener.accept()[0]
                with connection:
                    got.append(connection.recv(65_536))

    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}", got
    listener.close()


@pytest.fixture
def output(bucket: str, stranger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An output whose record of the last run says that its input is at the stranger's address."""
    pixels = np.full((FRAME_HEIGHT_PX, FRAME_WIDTH_PX, 3), 120, np.uint8)
    picture = cv2.imencode(".jpg", pixels)[1].tobytes()
    ObjectStore(f"{bucket}/in").write("a.tar", bad.tar({"f.jpg": picture}))
    path = tmp_path / "out"
    places = {"input": {"uri": f"{bucket}/in"}, "output": {"uri": str(path)}}
    persons = [Found((0.1, 0.1, 0.3, 0.6), answers={"smolvlm": said({"gender": 0.6})})]
    write_output(ObjectStore(str(path)), {"a": {"f": persons}}, Settings.model_validate(places))
    assert run_in_process(monkeypatch, "consolidate", "--output", path) == 0
    record = json.loads((path / "run.json").read_text())
    record["config"]["storage"] |= {"endpoint_url": stranger[0], "retries": 0, "timeout_s": 5}
    (path / "run.json").write_text(json.dumps(record))
    return path


@pytest.mark.parametrize(
    "command",
    [("review", "export", "--format", "coco"), ("export", "--format", "yolo"), ("report",)],
    ids=lambda command: command[0],
)
def test_a_command_reads_frames_from_its_own_address(
    output: Path, stranger, command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    to = tmp_path / ("report.html" if command == ("report",) else "to")
    assert run_in_process(monkeypatch, *command, "--output", output, "--to", to) == 0
    assert stranger[1] == []
    if command == ("report",):
        assert "data:image/jpeg" in to.read_text() or "data:image/webp" in to.read_text()
    else:
        assert [path.suffix for path in to.rglob("*") if path.suffix in (".jpg", ".jpeg")] != []


def test_the_page_reads_frames_from_its_own_address(output: Path, stranger, tmp_path: Path):
    session = Session(ObjectStore(str(output)), "ann", tmp_path / "cache", 1 << 20)
    try:
        frame = asyncio.run(session.pictures.frame(session.person_row(0)))
        assert frame.startswith(JPEG)
    finally:
        session.close()
    assert stranger[1] == []
