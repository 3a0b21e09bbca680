"""Many objects are listed with few requests, and give the same as the listing folder by folder."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

import pytest

from actors.storage.flat_listing import list_flat, names_in
from actors.storage.object_store import ObjectStore


@pytest.fixture(params=["local", "s3"])
def store(request, tmp_path) -> ObjectStore:
    if request.param == "local":
        return ObjectStore(str(tmp_path / "out"))
    return ObjectStore(f"{request.getfixturevalue('bucket')}/out")


def test_every_object_is_listed_as_by_folders_and_each_folder_together(store: ObjectStore):
    names = [f"json/s-{i % 3}/f{i:04d}/{i % 2}.json" for i in range(1100)] + [
        "json/s-1.tar",
        "json/a b/ü/0.json",
    ]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: store.write(name, b"x"), [*names, "jsonx", "other/y"]))
    found = list(list_flat(store, "json"))
    assert sorted(info.path for info in found) == sorted(names)
    assert sorted(found, key=lambda o: o.path) == sorted(store.list("json"), key=lambda o: o.path)
    folders = [name for name, _ in groupby(info.path.split("/")[1] for info in found)]
    assert len(folders) == len(set(folders))
    assert sorted(names_in(store, "json")) == ["a b", "s-0", "s-1", "s-1.tar", "s-2"]


def test_a_folder_that_is_not_there_is_empty(store: ObjectStore):
    store.write("other/y", b"x")
    assert list(list_flat(store, "json")) == []
    assert names_in(store, "json") == []


def test_objects_have_the_time_at_which_they_were_written(store: ObjectStore):
    before = time.time()
    store.write("a", b"x")
    for info in (store.info("a"), *store.list(), *list_flat(store, "")):
        # S3 gives whole seconds.
        assert before - 2 < info.modified_s < time.time() + 2
