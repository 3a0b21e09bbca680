"""Each line of the log says which run wrote it on which machine, and about which attempt at a shard."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from actors.attempt_tracker import AttemptTracker
from actors.log_lines import NODE, about_shard, log_passed_on
from actors.storage.object_store import ObjectStore
from jobs.run.run_log import run_log
from tests.conftest import REPO_ROOT

WORKER = """
import json
import logging

from actors.log_lines import about_shard, about_shards, log_as_worker

passed_on = []
for _ in range(2):
    log_as_worker("r1", passed_on.append)
log = logging.getLogger("actors.stage_workers")
with about_shard("a", 3):
    log.info("a detail")
    try:
        1 / 0
    except ZeroDivisionError:
        log.exception("%s could not process", "detect")
log.warning("about no shard")
with about_shards([("b", 2), ("a", 3), ("b", 2)]):
    log.info("about two shards")
with about_shards([("b", 2), ("b", 2)]), about_shard("b"):
    log.info("about a shard before its attempt")
print(json.dumps(passed_on))
"""


@pytest.fixture(scope="module")
def worker() -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", WORKER], cwd=REPO_ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def lines_of(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "processing.log").read_text().splitlines()]


def test_a_worker_writes_json_lines_with_run_shard_attempt_and_node(worker):
    lines = [json.loads(line) for line in worker.stderr.splitlines()]
    about = [(line["message"], line.get("shard_id"), line.get("attempt")) for line in lines]
    assert about == [
        ("a detail", "a", 3),
        ("detect could not process", "a", 3),
        ("about no shard", None, None),
        ("about two shards", None, None),
        ("about a shard before its attempt", "b", None),
    ]
    assert lines[3]["shards"] == [{"shard_id": "a", "attempt": 3}, {"shard_id": "b", "attempt": 2}]
    assert {(line["run_id"], line["node"], line["logger"]) for line in lines} == {
        ("r1", NODE, "actors.stage_workers")
    }
    assert "ZeroDivisionError" in lines[1]["exc_info"]


def test_warnings_of_workers_are_in_the_log_of_the_run_with_their_machine(worker, tmp_path: Path):
    tracker = AttemptTracker(live_nodes=lambda: {"node"})
    for line in json.loads(worker.stdout):
        tracker.log({**line, "node": "machine-7"})
    with run_log(ObjectStore(str(tmp_path))) as opened:
        for line in tracker.snapshot().lines:
            log_passed_on(line)
        assert tracker.snapshot().lines == ()
    first, second = (line for line in lines_of(tmp_path) if line["logger"] == "actors.stage_workers")
    assert first["message"] == "detect could not process"
    assert (first["level"], first["run_id"], first["node"]) == ("ERROR", opened.run_id, "machine-7")
    assert (first["shard_id"], first["attempt"]) == ("a", 3)
    assert "ZeroDivisionError" in str(first["exc_info"])
    assert (second["message"], second["level"]) == ("about no shard", "WARNING")


def test_lines_of_the_driver_name_its_machine(tmp_path: Path):
    with run_log(ObjectStore(str(tmp_path))) as opened, about_shard("b", 1):
        logging.getLogger("shopframe").info("planned")
    (line,) = lines_of(tmp_path)
    assert (line["run_id"], line["node"], line["shard_id"], line["attempt"]) == (opened.run_id, NODE, "b", 1)
