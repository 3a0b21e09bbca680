"""The stores of the consolidated tables: which ones can hold them, and what is said of those that can't."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from deltalake import DeltaTable

from actors.errors import OutputError
from actors.storage.object_store import ObjectStore
from actors.storage.settings import StorageSettings
from actors.storage.tables import from_parquet
from jobs.run.prepare import check_places
from jobs.settings import load_settings
from tests.servers.seaweedfs import count_requests
from tests.support import job
from tests.support.committed import write_output
from tests.support.consolidating import (
    FIRST,
    TABLES,
    consolidate,
    consolidate_all_at_once,
    globbed,
    in_order,
    one,
    persons_of,
    shards,
    snapshot,
)


@pytest.fixture
def store(tmp_path) -> ObjectStore:
    return ObjectStore(str(tmp_path / "out"))


@pytest.mark.parametrize("uri", ["sftp://host/out", "/tmp/100%"])
def test_an_output_that_cannot_hold_the_tables_is_refused_before_any_work(uri):
    with pytest.raises(OutputError, match=r"or set output\.consolidate=false"):
        check_places(load_settings(overrides=["input.uri=in", f"output.uri={uri}"]))


def test_without_consolidation_any_output_will_do(tmp_path):
    output = f"output.uri={tmp_path}/100%"
    check_places(load_settings(overrides=["input.uri=in", output, "output.consolidate=false"]))


def test_a_table_that_is_damaged_is_named_with_the_remedy(store):
    write_output(store, shards("a"))
    consolidate(store)
    log = Path(store.root, "consolidated/_delta_log/00000000000000000000.json")
    log.write_text("not JSON")
    done = job.shopframe("consolidate", "--output", store.root)
    assert done.returncode == 1
    assert "delete the folder and run shopframe consolidate" in done.stderr
    shutil.rmtree(log.parents[1])
    consolidate(store)
    assert persons_of(store) == {"a": 2}


def test_a_bucket_holds_the_same_tables_for_consolidations_at_once(bucket, s3, store):
    remote = ObjectStore(f"{bucket}/some out")
    for output in (remote, store):
        write_output(output, shards("abcde"))
    consolidate_all_at_once(remote)
    consolidate(store)
    write_output(remote, shards("ce", persons=3))
    write_output(store, shards("ce", persons=3))
    processes = [job.start("consolidate", "--output", remote.uri) for _ in range(2)]
    for process in processes:
        done = job.finish(process)
        assert done.returncode == 0, done.stderr
    consolidate(store)
    for folder in TABLES:
        found = [info for info in remote.list(folder) if info.path.endswith(".parquet")]
        plain = [row for info in found for row in from_parquet(remote.read(info.path)).to_pylist()]
        assert in_order(plain) == globbed(store, folder)
        options = {"AWS_ALLOW_HTTP": "true"}
        table = DeltaTable(remote.uri_of(folder), storage_options=options).to_pyarrow_table()
        assert in_order(table.to_pylist()) == snapshot(store, folder)


def test_the_endpoint_of_the_settings_comes_before_that_of_the_environment(bucket, s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    store = ObjectStore(f"{bucket}/out", StorageSettings(endpoint_url=s3.endpoint_url))
    write_output(store, shards("a"))
    assert consolidate(store).persons == 2


def test_wrong_credentials_are_named_without_the_secret(bucket, s3):
    write_output(ObjectStore(f"{bucket}/out"), shards("a"))
    wrong = {"AWS_SECRET_ACCESS_KEY": "a-wrong-secret"}
    done = job.shopframe("consolidate", "--output", f"{bucket}/out", environment=wrong)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "AWS_SECRET_ACCESS_KEY" in done.stderr
    for secret in ("a-wrong-secret", s3.secret_key):
        assert secret not in done.stderr + done.stdout


def _requests_of(s3, work) -> dict[str, int]:
    before = count_requests(s3.metrics_url)
    work()
    return dict(count_requests(s3.metrics_url) - before)


def test_a_consolidation_without_changes_reads_no_file_of_the_tables(bucket, s3):
    few, many = (ObjectStore(f"{bucket}/{name}") for name in ("few", "many"))
    write_output(few, shards(FIRST[:1]))
    write_output(many, shards([f"{first}x{n}" for first in FIRST for n in range(2)] + FIRST))
    for output in (few, many):
        consolidate(output)
    asked = [_requests_of(s3, lambda output=output: consolidate(output)) for output in (few, many)]
    assert asked[0] == asked[1]
    assert "PUT" not in asked[0]


def test_each_table_of_a_shard_is_read_with_one_request(bucket, s3):
    few, many = [f"{FIRST[0]}x{n:02d}" for n in range(5)], [f"{FIRST[0]}x{n:02d}" for n in range(25)]
    asked = []
    for names in (few, many):
        output = ObjectStore(f"{bucket}/{len(names)}")
        write_output(output, shards(names))
        asked.append(_requests_of(s3, lambda output=output: consolidate(output)))
    # The record and the answers for the columns, then the record and the frames for both tables, the persons
    # and the answers.
    assert 0 < asked[1]["GET"] - asked[0]["GET"] <= (2 + 4 + 1 + 1) * 20


def test_of_a_changed_file_only_the_changed_shard_is_read_again(bucket, s3):
    few, many = [f"{FIRST[0]}x{n:02d}" for n in range(10)], [f"{FIRST[0]}x{n:02d}" for n in range(40)]
    asked = []
    for names in (few, many):
        output = ObjectStore(f"{bucket}/{len(names)}")
        write_output(output, shards(names))
        consolidate(output)
        write_output(output, {names[3]: one(gender="female")})
        asked.append(_requests_of(s3, lambda output=output: consolidate(output)))
    assert asked[0]["GET"] == asked[1]["GET"]
