"""Whole runs from a bucket to a bucket, which never write or print the secret key."""

from __future__ import annotations

import json

import pytest

from actors.log_lines import NODE
from actors.storage.object_store import ObjectStore
from actors.storage.record_index import read_records
from actors.storage.settings import StorageSettings
from tests.servers.seaweedfs import S3Server
from tests.support import job
from tests.support.job import Models
from tests.support.logs import logs_of
from tests.support.metrics import read_metrics, total

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


def test_a_run_from_bucket_to_bucket_commits_everything_and_keeps_the_secret(
    bucket: str, s3: S3Server, models: Models, tmp_path
):
    job.write_shards(tmp_path, "ab")
    source = ObjectStore(f"{bucket}/in", StorageSettings())
    for path in tmp_path.glob("*.tar"):
        source.write(path.name, path.read_bytes())
    textfile = tmp_path / "shopframe.prom"
    measured = ["--set", f"metrics.textfile={textfile}"]
    job.annotate(source.uri, f"{bucket}/out", *models.options(smolvlm=False), *measured)
    metrics = read_metrics(textfile.read_text())
    # Of each shard, at least two tables and the record were written by a worker.
    assert total(metrics, "store_requests_total", operation="PutObject", result="ok") >= 6
    assert total(metrics, "store_requests_total", result="failed") == 0
    store = ObjectStore(f"{bucket}/out", StorageSettings())
    found = [record for record, _ in read_records(store)]
    assert [(r.shard_id, r.state, r.counts.frames_ok) for r in found] == [("a", "done", 2), ("b", "done", 2)]
    for record in found:
        for entry in record.objects:
            if entry.kind != "json":
                assert len(store.read(entry.path)) == entry.size_bytes
    objects = [info.path for info in store.list()]
    assert {"run.json", "progress.json"} <= set(objects)
    log = json.loads(store.read("progress.json"))["run"]["log"]
    assert any(store.uri_of(path).startswith(f"{log}/") for path in objects)
    (lines,) = logs_of(store).values()
    assert all(line["node"] == NODE for line in lines)
    shards = [(line["shard_id"], line["attempt"]) for line in lines if line["message"] == "shard"]
    assert sorted(shards) == [("a", 1), ("b", 1)]
    for path in objects:
        assert s3.secret_key.encode() not in store.read(path), path
    done = job.shopframe("status", "--output", f"{bucket}/out", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["shards"] == {"total": 2, "done": 2, "failed": 0, "pending": 0}


@pytest.mark.parametrize("command", ["annotate", "status"])
def test_wrong_credentials_end_with_the_remedy_and_without_the_secret(
    bucket: str, s3: S3Server, tmp_path, command
):
    job.write_shards(tmp_path, "a")
    options = ["--input", tmp_path] if command == "annotate" else []
    done = job.shopframe(
        command, *options, "--output", f"{bucket}/out", "--set", "storage.retries=0",
        environment={"AWS_SECRET_ACCESS_KEY": "a-wrong-secret"},
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert "AWS_ACCESS_KEY_ID" in done.stderr
    assert "Traceback" not in done.stderr
    for secret in ("a-wrong-secret", s3.secret_key):
        assert secret not in done.stdout + done.stderr
