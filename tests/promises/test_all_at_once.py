"""Every command at once on one output in a bucket: nothing is lost, doubled or half read."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from actors.storage.object_store import ObjectStore
from actors.storage.record_index import read_records
from actors.storage.settings import StorageSettings
from tests.servers.gemini_server import KEY, gemini_server
from tests.support import gemini_job, job, without_ray
from tests.support.job import ROW_KEYS, Models

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


def upload(folder: Path, bucket: str) -> None:
    source = ObjectStore(f"{bucket}/in", StorageSettings())
    for path in folder.glob("*.tar"):
        source.write(path.name, path.read_bytes())


@pytest.mark.long
def test_two_annotate_a_gemini_a_consolidate_and_a_status_loop(bucket: str, models: Models, tmp_path):
    output = f"{bucket}/out"
    places = ["--input", f"{bucket}/in", "--output", output]
    options = models.options(smolvlm=False)
    job.write_shards(tmp_path / "first", "abc")
    upload(tmp_path / "first", bucket)
    with gemini_server() as server:
        asking = gemini_job.options(server.base_url, requests_per_minute=1000)
        key = {"GEMINI_API_KEY": KEY}
        # The first shards wait for Gemini, so that its command has a backlog from the start.
        without_ray.annotate(f"{bucket}/in", output, *options)
        job.write_shards(tmp_path / "second", "def", first_seed=50)
        upload(tmp_path / "second", bucket)
        running = [
            *(job.start("annotate", *places, *options, *asking, environment=key) for _ in range(2)),
            job.start("gemini", "--output", output, *asking, environment=key, own_ray=True),
        ]
        beside = []
        while any(process.poll() is None for process in running):
            # As processes of their own, these two would take most of the machine from the runs.
            beside.append(without_ray.command("status", "--output", output, "--json"))
            beside.append(without_ray.command("consolidate", "--output", output))
            time.sleep(4)
        ended = [job.finish(process) for process in running]
        assert beside
        for done in ended:
            assert done.returncode == 0, done.stdout + done.stderr
        # What one of the runs left to another that had ended is done by the next one.
        without_ray.annotate(f"{bucket}/in", output, *options, *asking)
        answered = gemini_job.answered(server.journal)
    store = ObjectStore(output, StorageSettings())
    records = [record for record, _ in read_records(store)]
    assert [record.shard_id for record in records] == list("abcdef")
    kept = sum(record.counts.kept for record in records)
    assert {record.state for record in records} == {"done"}
    assert sum((Counter(r.annotators["gemini"]) for r in records), Counter()) == {"ok": kept}
    assert set(answered.values()) == {1}
    keys = []
    for info in store.list("consolidated"):
        if info.path.endswith(".parquet") and "/_delta_log/" not in info.path:
            keys += pq.read_table(store.open(info.path), columns=ROW_KEYS).to_pylist()
    assert len(keys) == len({tuple(row.values()) for row in keys}) == kept
    without_ray.command("verify", "--output", output)
    status = json.loads(without_ray.command("status", "--output", output, "--json").stdout)
    assert status["shards"] == {"total": 6, "done": 6, "failed": 0, "pending": 0}
