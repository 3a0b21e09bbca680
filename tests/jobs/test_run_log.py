"""No line of a log is lost, torn or written twice, however many runs share an output."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from actors.storage import layout
from actors.storage.object_store import ObjectStore
from jobs.run import log_files
from jobs.run.log_files import LogSegments
from jobs.run.run_log import log, run_log
from tests.conftest import REPO_ROOT
from tests.support import job
from tests.support.job import Models
from tests.support.logs import logs_of

WRITER = """
import sys
from actors.storage.object_store import ObjectStore
from jobs.run.run_log import log, run_log

with run_log(ObjectStore(sys.argv[1])):
    for number in range(300):
        log.info("line %d %s", number, sys.argv[2] * 20_000)
"""


def test_two_runs_append_whole_lines_to_the_log_on_a_disk(tmp_path: Path):
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [subprocess.Popen([*command, letter], cwd=REPO_ROOT) for letter in "xy"]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    lines = [json.loads(line) for line in (tmp_path / "processing.log").read_text().splitlines()]
    assert len({line["run_id"] for line in lines}) == 2
    expected = sorted(f"line {number} {letter * 20_000}" for letter in "xy" for number in range(300))
    assert sorted(line["message"] for line in lines if line["logger"] == "shopframe") == expected


def test_a_long_log_is_renamed_and_no_line_of_a_run_that_goes_on_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(log_files, "_LONGEST_LOG_BYTES", 100)
    store = ObjectStore(str(tmp_path))
    with run_log(store):
        log.info("first %s", "x" * 100)
        with run_log(store):
            log.info("second")
        log.info("third")
    assert "second" in (tmp_path / "processing.log").read_text()
    before = (tmp_path / "processing.log.1").read_text()
    assert "first" in before
    assert "third" in before


def test_each_byte_of_a_log_is_sent_once(bucket: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(log_files, "_SEND_EVERY_S", 0.2)
    store = ObjectStore(f"{bucket}/out")
    run_id = layout.new_run_id()
    handler = LogSegments(store, run_id)
    handler.setFormatter(logging.Formatter("%(message)s"))
    said = []
    for number in range(400):
        said.append(f"line {number}")
        handler.handle(logging.makeLogRecord({"msg": said[-1]}))
        if number % 100 == 0:
            while len(list(store.list(layout.LOGS))) <= number // 100:
                time.sleep(0.05)
    handler.close()
    parts = list(store.list(layout.LOGS))
    assert len(parts) >= 4
    assert b"".join(store.read(part.path) for part in parts).decode().splitlines() == said


def test_lines_wait_while_the_store_is_away_and_what_is_too_much_is_counted(
    bucket: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(log_files, "_SEND_EVERY_S", 0.1)
    monkeypatch.setattr(log_files, "_MOST_WAITING_BYTES", 30)
    store = ObjectStore(f"{bucket}/out")
    tried = []

    def away(path: str, content: bytes) -> None:
        tried.append(content)
        if len(tried) < 3:
            raise OSError("the store is away")
        ObjectStore.write(store, path, content)

    monkeypatch.setattr(store, "write", away)
    handler = LogSegments(store, layout.new_run_id())
    handler.setFormatter(logging.Formatter("%(message)s"))
    for number in range(4):
        handler.handle(logging.makeLogRecord({"msg": f"line {number:05d}"}))
    while len(tried) < 3:
        time.sleep(0.05)
    handler.close()
    text = b"".join(store.read(part.path) for part in store.list(layout.LOGS)).decode()
    dropped = "2 lines of the log were dropped while the store could not be reached"
    assert text.splitlines() == ["line 00000", "line 00001", dropped]


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_two_runs_at_once_on_a_bucket_keep_their_logs_and_a_killed_one_what_it_sent(
    bucket: str, models: Models, tmp_path: Path
):
    job.write_shards(tmp_path / "in", "abc")
    store = ObjectStore(f"{bucket}/out")
    given = ["--output", store.uri, *models.options(smolvlm=False)]
    # Without its only detector it can't end before its log is sent for the first time. Its shards are large
    # enough that the detector is stopped before it has done them.
    job.write_shards(tmp_path / "large", "defg", frames=40)
    before = job.ray_workers("(detect)")
    killed = job.start("annotate", "--input", tmp_path / "large", *given, "--set", "detector.actors=1")
    stopped = job.wait_for(lambda: job.ray_workers("(detect)") - before, killed)
    assert stopped
    for detector in stopped:
        os.kill(detector, signal.SIGSTOP)
    assert job.wait_for(lambda: list(store.list(layout.LOGS)), killed)
    assert killed.poll() is None
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait(60)
    (first,) = logs_of(store)
    two = [job.start("annotate", "--input", tmp_path / "in", *given, "--force") for _ in range(2)]
    done = [job.finish(process) for process in two]
    logs = logs_of(store)
    # Both do every shard; each shard counts for the one that commits it first.
    assert [process.returncode for process in done] == [0, 0], f"{done} {logs}"
    assert len(logs) == 3
    for run_id, lines in logs.items():
        messages = [line["message"] for line in lines]
        assert {line["run_id"] for line in lines} == {run_id}
        assert messages.count("start") == 1
        assert messages.count("end") == (run_id != first)
        if run_id != first:
            assert messages.count("shard") == 3
    assert not store.exists("processing.log")
