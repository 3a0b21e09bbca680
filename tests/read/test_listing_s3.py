"""Planning lists the shards of a bucket as it does those of a disk, and reports trouble without secrets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from actors.errors import InputError
from actors.read.frames import read_frames
from actors.read.listing import list_shards
from actors.read.settings import InputSettings
from actors.storage.object_store import ObjectStore
from actors.storage.settings import StorageSettings
from tests.read.test_listing import STORAGE, ids, listed, mixed_folder, write
from tests.support import bad_inputs as bad


def test_a_bucket_gives_the_shards_of_a_folder(bucket: str, tmp_path):
    folder = mixed_folder(tmp_path)
    store = ObjectStore(f"{bucket}/in", STORAGE)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            store.write(path.relative_to(folder).as_posix(), path.read_bytes())
    expected = listed(folder)
    found = listed(f"{bucket}/in/")
    assert ids(found) == ids(expected)
    local = {shard.shard_id: shard for shard in expected}
    for shard in found:
        assert shard.uri.startswith(f"{bucket}/in")
        on_disk = local[shard.shard_id]
        assert replace(shard, uri=on_disk.uri, etag=on_disk.etag) == on_disk
        assert list(read_frames(shard, InputSettings(), STORAGE)) == list(
            read_frames(on_disk, InputSettings(), STORAGE)
        )
    assert ids(listed(f"{bucket}/in/b.tar")) == ["b"]
    assert ids(listed(f"{bucket}/in/*.tar")) == ["b"]
    assert len(listed(bucket)) == len(expected)


def test_the_identity_of_an_object_changes_when_its_content_does(bucket: str):
    store = ObjectStore(bucket, STORAGE)
    store.write("a.tar", b"1" * 100)
    first = listed(bucket)[0].etag
    assert listed(bucket)[0].etag == first
    store.write("a.tar", b"2" * 100)
    assert listed(bucket)[0].etag != first


def test_large_files_in_a_bucket_are_divided_as_on_disk(bucket: str, tmp_path):
    files = {
        "a.tar": bad.good_tar(40),
        "b.zip": bad.zipped(bad.frames(40)),
        "c.parquet": bad.parquet({"image": list(bad.frames(40).values())}, 5),
    }
    write(tmp_path, files)
    for name, content in files.items():
        ObjectStore(bucket, STORAGE).write(name, content)
    expected = listed(tmp_path, max_shard_bytes=20_000)
    found = listed(bucket, max_shard_bytes=20_000)
    assert [(s.shard_id, s.start, s.stop, s.size_bytes) for s in found] == [
        (s.shard_id, s.start, s.stop, s.size_bytes) for s in expected
    ]
    assert len(found) > 6


def test_a_missing_and_an_empty_bucket_are_said(bucket: str):
    with pytest.raises(InputError, match="there is nothing at this input"):
        listed("s3://no-such-bucket-anywhere/x")
    with pytest.raises(InputError, match="there is nothing at this input"):
        listed("s3://no-such-bucket-anywhere")
    with pytest.raises(InputError, match="is empty"):
        listed(bucket)
    with pytest.raises(InputError, match="there is nothing at this input"):
        listed(f"{bucket}/nothing/here")


@pytest.mark.parametrize("place", ["", "/in", "/in/a.tar", "/in/*.tar"])
@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_said_and_nothing_secret(variable: str, place: str, bucket: str, monkeypatch):
    ObjectStore(bucket, STORAGE).write("in/a.tar", bad.good_tar(1))
    monkeypatch.setenv(variable, "wrong-wrong-wrong")
    ObjectStore(bucket, STORAGE).fs.clear_instance_cache()
    with pytest.raises(InputError, match=r"refused the credentials.*AWS_SECRET_ACCESS_KEY") as raised:
        listed(f"{bucket}{place}")
    assert "wrong-wrong" not in str(raised.value)
    assert "only-for-loopback" not in str(raised.value)


def test_missing_credentials_are_said(bucket: str, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    ObjectStore(bucket, STORAGE).fs.clear_instance_cache()
    with pytest.raises(InputError, match=r"no credentials: set AWS_ACCESS_KEY_ID.*or storage\.anon=true"):
        listed(bucket)


def test_a_store_that_is_down_is_said(s3_environment):
    storage = StorageSettings(endpoint_url="http://127.0.0.1:9", retries=0, timeout_s=2)
    with pytest.raises(InputError, match=r"can't be reached.*check storage\.endpoint_url"):
        list(list_shards(InputSettings(uri="s3://any/in"), storage))
