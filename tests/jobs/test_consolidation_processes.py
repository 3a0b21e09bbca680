"""Tables whose files are made in several processes are those that one process makes."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import joblib
import pytest

from actors.corrections.decision import Decision
from actors.corrections.decision_log import append
from actors.storage import layout
from actors.storage.object_store import ObjectStore
from actors.storage.request_counts import counted_so_far
from jobs.run import consolidated_making
from tests.servers.seaweedfs import count_requests
from tests.support.committed import write_output
from tests.support.consolidating import BOX, FIRST, TABLES, consolidate, one, persons_of, shards, snapshot

NAMES = [f"{first}{rest}" for first in FIRST for rest in ("", *(f"x{n}" for n in range(3)))]
"""Shards of three files."""

MAKE_ALONE = consolidated_making._make_alone


@pytest.fixture
def made_by_processes(monkeypatch) -> list[int]:
    """Let two processes make what new files there are. It has the number of files at each time."""
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)
    monkeypatch.setattr(consolidated_making, "_SHARDS_PER_PROCESS", 1)
    before, files = consolidated_making.map_in_processes, []

    def counting(function, arguments, processes):
        assert processes == 2
        made = list(before(function, arguments, processes))
        files.append(len(made))
        return made

    monkeypatch.setattr(consolidated_making, "map_in_processes", counting)
    return files


def make_or_die(work: Any) -> Any:
    """Die in another process where it should make the second file, as if memory were short."""
    if work[0].group.shard_ids[0] == FIRST[1] and multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return MAKE_ALONE(work)


def decision(shard_id: str, box: tuple[float, ...]) -> Decision:
    about = {"shard_id": shard_id, "frame_key": "f", "bbox": box, "detection": "001-00000000"}
    given = {"reviewer": "ann", "tool": "test", "kind": "value", "attribute": "gender", "value": "female"}
    return Decision.model_validate(about | given)


def contents(store: ObjectStore) -> dict[str, bytes]:
    """The files of both tables, without the last part of their names, which is random."""
    paths = [path for folder in TABLES for path in Path(store.root, folder).glob("*.parquet")]
    return {f"{path.parent.name}/{path.name.rpartition('-')[0]}": path.read_bytes() for path in paths}


def test_the_files_are_the_same_byte_for_byte(tmp_path, made_by_processes):
    store = ObjectStore(str(tmp_path / "out"))
    write_output(store, shards(NAMES))
    # The second box is nobody's.
    append(store, [decision(NAMES[1], BOX), decision(NAMES[6], (0.7, 0.7, 0.9, 0.9))])
    record = json.loads(store.read(layout.commit_path(NAMES[9])))
    store.delete([entry["path"] for entry in record["objects"] if entry["kind"] == "persons"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joblib, "cpu_count", lambda: 1)
        expected = consolidate(store)
    files = contents(store)
    assert made_by_processes == []
    for table in TABLES:
        shutil.rmtree(Path(store.root, table))
    done = consolidate(store)
    assert made_by_processes == [3, 3]
    assert contents(store) == files
    assert len(files) == 6
    assert done == expected
    assert done.lost.keys() == {NAMES[6]}
    assert done.incomplete.keys() == {NAMES[9]}
    assert done.persons == 2 * (len(NAMES) - 1)


def test_processes_make_new_files_and_this_one_those_with_rows_that_it_has(tmp_path, made_by_processes):
    store, fresh = (ObjectStore(str(tmp_path / name)) for name in ("out", "fresh"))
    write_output(store, shards(NAMES[:4]))
    consolidate(store)
    write_output(store, {NAMES[1]: one(gender="female")} | shards(NAMES[4:]))
    shutil.copytree(store.root, fresh.root, ignore=shutil.ignore_patterns(*TABLES))
    consolidate(store)
    assert made_by_processes == [1, 1, 2, 2]
    consolidate(fresh)
    assert persons_of(store) == dict.fromkeys(NAMES, 2) | {NAMES[1]: 1}
    assert snapshot(store) == snapshot(fresh)


def test_the_requests_of_all_processes_are_counted(bucket, s3, made_by_processes):
    store = ObjectStore(f"{bucket}/out")
    write_output(store, shards(NAMES))
    before, seen_before = Counter(counted_so_far()), count_requests(s3.metrics_url)
    consolidate(store)
    counted = Counter(counted_so_far()) - before
    seen = count_requests(s3.metrics_url) - seen_before
    assert made_by_processes == [3, 3]
    assert counted["PutObject", "ok"] >= 6
    # Delta Lake's own requests aren't counted.
    assert 8 * len(NAMES) <= counted["GetObject", "ok"] <= seen["GET"]


def test_a_process_that_dies_costs_no_row_and_no_request_is_counted_twice(
    bucket, s3, made_by_processes, monkeypatch
):
    store = ObjectStore(f"{bucket}/out")
    write_output(store, shards(NAMES))
    monkeypatch.setattr(consolidated_making, "_make_alone", make_or_die)
    before, seen_before = Counter(counted_so_far()), count_requests(s3.metrics_url)
    done = consolidate(store)
    counted = Counter(counted_so_far()) - before
    assert made_by_processes == [3, 3]
    assert (done.shards, done.persons, done.incomplete) == (len(NAMES), 2 * len(NAMES), {})
    assert counted["GetObject", "ok"] <= (count_requests(s3.metrics_url) - seen_before)["GET"]
