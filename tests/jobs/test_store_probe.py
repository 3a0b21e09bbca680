"""An output that can't tell which of two competing writers came first is refused before any work."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from actors.errors import OutputError, PreconditionError
from actors.storage.object_store import ObjectStore
from actors.storage.settings import StorageSettings
from jobs.run.store_probe import probe_output
from tests.jobs.test_usage import refused
from tests.servers.seaweedfs import S3Server
from tests.servers.unconditional_proxy import unconditional_proxy
from tests.support import job, without_ray
from tests.support.job import Models
from tests.support.logs import logs_of


def paths(store: ObjectStore) -> list[str]:
    return [info.path for info in store.list()]


@pytest.fixture(params=["local", "s3"])
def store(request, tmp_path) -> ObjectStore:
    if request.param == "local":
        return ObjectStore(str(tmp_path / "out"))
    return ObjectStore(f"{request.getfixturevalue('bucket')}/out")


def test_runs_that_probe_one_output_at_once_pass_and_leave_nothing(store: ObjectStore):
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda _: probe_output(store), range(12))) == [None] * 12
    assert paths(store) == []
    if store.is_local:
        assert os.listdir(store.root) == []


@pytest.mark.parametrize(
    ("without", "refuse", "said"),
    [
        (["if-none-match", "if-match"], False, "accepts two creations of one object"),
        (["if-match"], False, "replaces an object that has changed since"),
        (["if-none-match", "if-match"], True, "refuses conditional writes"),
    ],
)
def test_a_bucket_without_conditional_writes_is_refused_or_used_with_a_warning(
    bucket: str, s3: S3Server, without, refuse, said
):
    with unconditional_proxy(s3, without, refuse) as endpoint:
        store = ObjectStore(f"{bucket}/out", StorageSettings(endpoint_url=endpoint))
        with pytest.raises(OutputError, match=said) as raised:
            probe_output(store)
        assert "storage.allow_unsafe=true" in str(raised.value)
        allowed = ObjectStore(store.uri, StorageSettings(endpoint_url=endpoint, allow_unsafe=True))
        assert said in str(probe_output(allowed))
    assert paths(ObjectStore(bucket)) == []


def test_a_bucket_that_refuses_conditions_is_written_after_looking_where_that_is_allowed(
    bucket: str, s3: S3Server
):
    with unconditional_proxy(s3, refuse=True) as endpoint:
        with pytest.raises(OSError, match="not implemented"):
            ObjectStore(bucket, StorageSettings(endpoint_url=endpoint)).create("a", b"1")
        store = ObjectStore(bucket, StorageSettings(endpoint_url=endpoint, allow_unsafe=True))
        first = store.create("a", b"1")
        with pytest.raises(PreconditionError):
            store.create("a", b"2")
        second = store.replace("a", b"3", first)
        with pytest.raises(PreconditionError):
            store.replace("a", b"4", first)
        assert store.read_with_etag("a") == (b"3", second)


def test_a_disk_without_hard_links_is_refused_or_used_with_a_warning(tmp_path, monkeypatch):
    def link(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", link)
    with pytest.raises(OutputError, match="has no hard links"):
        probe_output(ObjectStore(str(tmp_path)))
    store = ObjectStore(str(tmp_path), StorageSettings(allow_unsafe=True))
    assert "has no hard links" in str(probe_output(store))
    # A file lock stands in for the hard link.
    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(lambda number: _created(store, number), range(8)))
    assert sum(created) == 1


def _created(store: ObjectStore, number: int) -> bool:
    try:
        store.create("commits/a.json", b"%d" % number)
    except PreconditionError:
        return False
    return True


@pytest.mark.parametrize("place", ["input", "output"])
def test_the_memory_of_a_process_is_refused(tmp_path, models: Models, capsys, monkeypatch, place):
    job.write_shards(tmp_path / "in", "a")
    given = {"input": tmp_path / "in", "output": tmp_path / "out"} | {place: "memory://x"}
    options = [option for name, uri in given.items() for option in (f"--{name}", uri)]
    said = refused(capsys, monkeypatch, "annotate", *options, *models.options(smolvlm=False))
    assert f"{place}.uri: memory://x is in the memory of this process" in said
    assert "pass a folder or a bucket URI" in said
    said = refused(capsys, monkeypatch, "shards", "--images", tmp_path / "in", "--output", "memory://x")
    assert "--output: memory://x is in the memory of this process" in said


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_run_on_a_bucket_without_conditional_writes_ends_before_any_work_or_warns(
    bucket: str, s3: S3Server, models: Models, tmp_path
):
    job.write_shards(tmp_path / "in", "a")
    with unconditional_proxy(s3) as endpoint:
        options = [*models.options(smolvlm=False), "--set", f"storage.endpoint_url={endpoint}"]
        done = without_ray.annotate(tmp_path / "in", f"{bucket}/out", *options, expect=2)
        assert "it ignores If-None-Match" in done.stderr
        assert "storage.allow_unsafe=true" in done.stderr
        assert paths(ObjectStore(f"{bucket}/out")) == []
        allowed = [*options, "--set", "storage.allow_unsafe=true"]
        # A process of its own: Delta Lake's requests would keep the threads of the proxy from answering.
        done = job.annotate(tmp_path / "in", f"{bucket}/out", *allowed)
    assert "warning: " in done.stderr
    assert "it ignores If-None-Match" in done.stderr
    (lines,) = logs_of(ObjectStore(f"{bucket}/out")).values()
    warnings = [line["message"] for line in lines if line["level"] == "WARNING"]
    assert any("it ignores If-None-Match" in message for message in warnings)
