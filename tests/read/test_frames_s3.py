"""A bucket gives the same frames as a disk, and errors of the store are reported without secrets."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from actors.errors import ShardUnavailableError, StoreError
from actors.read.frames import read_frames
from actors.read.loose_images import pack_members
from actors.read.parts import split_shard
from actors.read.settings import InputSettings
from actors.records import Shard
from actors.storage.object_store import ObjectStore
from actors.storage.settings import StorageSettings
from tests.support import bad_inputs as bad
from tests.support.shards_on_disk import STORAGE, shard_of


def test_frames_from_a_bucket_are_those_from_the_disk(bucket: str, tmp_path):
    files = bad.frames_with_sidecars(30)
    contents = {
        "a.tar": ("webdataset", bad.tar(files)),
        "a.tar.gz": ("webdataset", bad.tar_gz(files)),
        "a.zip": ("zip", bad.zipped(files)),
        "a.parquet": ("parquet", bad.parquet({"image": list(bad.frames(30).values())})),
    }
    store = ObjectStore(bucket, STORAGE)
    for name, (kind, content) in contents.items():
        store.write(f"in/{name}", content)
        local = shard_of(tmp_path / name, content, kind)
        remote = replace(local, uri=f"{bucket}/in/{name}")
        expected = list(read_frames(local, InputSettings(), STORAGE))
        assert list(read_frames(remote, InputSettings(), STORAGE)) == expected, name
        for part in split_shard(remote, 20_000, STORAGE):
            on_disk = replace(part, uri=local.uri)
            assert list(read_frames(part, InputSettings(), STORAGE)) == list(
                read_frames(on_disk, InputSettings(), STORAGE)
            )


def test_loose_images_from_a_bucket_include_empty_and_missing_ones(bucket: str):
    store = ObjectStore(f"{bucket}/images", STORAGE)
    files = {**bad.frames_with_sidecars(12), "odd name+%20#1.jpg": bad.jpeg(), "z.jpg": b""}
    for name, content in files.items():
        store.write(name, content)
    members = pack_members([*files, "never.jpg"])
    shard = Shard("x", store.uri, "images", "etag", 1, members=members)
    found = {frame.key: frame for frame in read_frames(shard, InputSettings(max_image_bytes=5000), STORAGE)}
    assert len(found) == 15
    assert found["z"].error == "empty (0 bytes)"
    assert "no longer there" in found["never"].error
    assert found["odd name+%20#1"].data == bad.jpeg()
    assert found["frame-005"].camera == "cam-1"


def test_a_store_that_is_down_is_no_fault_of_the_shard_and_tells_no_secret(bucket: str, monkeypatch):
    storage = StorageSettings(endpoint_url="http://127.0.0.1:9", retries=0, timeout_s=2)
    for kind, members in (("webdataset", b""), ("images", pack_members(["a.jpg"]))):
        shard = Shard("x", f"{bucket}/a.tar", kind, "etag", 10, members=members)
        with pytest.raises(StoreError, match=r"can't be reached.*check storage\.endpoint_url") as raised:
            list(read_frames(shard, InputSettings(), storage))
        assert "only-for-loopback" not in str(raised.value)


def test_a_wrong_secret_is_no_fault_of_the_shard(bucket: str, monkeypatch):
    content = bad.good_tar(2)
    ObjectStore(bucket, STORAGE).write("a.tar", content)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    ObjectStore(bucket, STORAGE).fs.clear_instance_cache()
    shard = Shard("a", f"{bucket}/a.tar", "webdataset", "etag", len(content))
    with pytest.raises(StoreError, match="AWS_ACCESS_KEY_ID") as raised:
        list(read_frames(shard, InputSettings(), STORAGE))
    assert not re.search("wrong-secret|only-for-loopback", str(raised.value))


def test_a_bucket_that_is_not_there_makes_the_shard_unavailable(s3_environment):
    shard = Shard("a", "s3://no-such-bucket-here/a.tar", "webdataset", "etag", 10)
    with pytest.raises(ShardUnavailableError, match="no longer there"):
        list(read_frames(shard, InputSettings(), STORAGE))
