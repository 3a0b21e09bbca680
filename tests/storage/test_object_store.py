"""Readers see a write whole or not at all, and exactly one of several competing conditional writes wins."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from uuid import uuid4

import pytest

from actors.errors import ConfigError, PreconditionError
from actors.storage.object_store import ObjectStore
from actors.storage.settings import StorageSettings
from actors.storage.store_errors import STORAGE_ERRORS, storage_error_text
from tests.servers.lossy_proxy import lossy_proxy
from tests.support.bad_inputs import jpeg

STORAGE = StorageSettings(retries=2, timeout_s=20)


@pytest.fixture(params=["local", "memory", "s3"])
def store(request, tmp_path) -> ObjectStore:
    """An empty store of each kind."""
    if request.param == "local":
        return ObjectStore(str(tmp_path / "out"), STORAGE)
    if request.param == "memory":
        return ObjectStore(f"memory://{uuid4().hex}/out", STORAGE)
    return ObjectStore(f"{request.getfixturevalue('bucket')}/out", STORAGE)


def paths(store: ObjectStore, prefix: str = "") -> list[str]:
    return [info.path for info in store.list(prefix)]


def test_what_is_written_is_read(store: ObjectStore):
    store.write("a/b.bin", b"one")
    store.write("a/b.bin", b"two")
    assert store.read("a/b.bin") == b"two"
    assert store.read_start("a/b.bin", 2) == b"tw"
    assert store.read_start("a/b.bin", 100) == b"two"
    assert store.exists("a/b.bin")
    assert not store.exists("a/c.bin")
    assert store.info("a/b.bin").size_bytes == 3
    with store.open("a/b.bin") as file:
        assert file.seek(1) == 1
        assert file.read() == b"wo"


def test_empty_objects_are_objects(store: ObjectStore):
    store.write("empty", b"")
    assert store.read("empty") == b""
    assert store.read_start("empty", 10) == b""
    assert [(info.path, info.size_bytes) for info in store.list()] == [("empty", 0)]


def test_missing_objects_raise_file_not_found(store: ObjectStore):
    store.write("other", b"1")
    for read in (store.read, store.read_with_etag, store.info, lambda p: store.read_start(p, 5)):
        with pytest.raises(FileNotFoundError):
            read("missing")
    store.delete(["missing"])


def test_names_of_every_kind_survive(store: ObjectStore):
    names = ["a b.txt", "plus+percent%20.txt", "日本/語.txt", "hash#1.txt", "q=1&x.txt", "deep/er/and/deeper"]
    for name in names:
        store.write(name, name.encode())
    assert sorted(paths(store)) == sorted(names)
    assert [store.read(name) for name in names] == [name.encode() for name in names]


def test_listing_gives_folders_one_after_another_and_nothing_else(store: ObjectStore):
    for name in ("b/2", "b/1", "a", "c/d/e", "c/d/f", "c/a", "bb/1"):
        store.write(name, b"x")
    assert paths(store) == ["a", "b/1", "b/2", "bb/1", "c/a", "c/d/e", "c/d/f"]
    assert paths(store, "b") == ["b/1", "b/2"]
    assert paths(store, "c") == ["c/a", "c/d/e", "c/d/f"]
    assert paths(store, "nothing") == []
    assert all(info.size_bytes == 1 and info.etag for info in store.list())


def test_listing_and_info_give_the_same_identity_which_follows_the_content(store: ObjectStore):
    store.write("a", b"1")
    (listed,) = store.list()
    assert store.info("a") == listed
    store.write("a", b"22")
    assert store.info("a").etag != listed.etag


def test_a_thousand_and_more_objects_are_all_listed(store: ObjectStore):
    names = [f"many/{index:05d}" for index in range(1100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.write(name, b"x"), names))
    assert paths(store, "many") == names


def test_delete_removes_objects_and_forgives_missing_ones(store: ObjectStore):
    for name in ("a", "b", "c"):
        store.write(name, b"x")
    store.delete(["a", "never", "c"])
    assert paths(store) == ["b"]


def test_upload_copies_a_file(store: ObjectStore, tmp_path):
    source = tmp_path / "source.bin"
    content = jpeg() * 5000
    source.write_bytes(content)
    store.upload("in/copy.bin", source)
    assert store.read("in/copy.bin") == content
    assert paths(store) == ["in/copy.bin"]


def test_create_refuses_what_exists(store: ObjectStore):
    store.create("commits/a.json", b"first")
    with pytest.raises(PreconditionError):
        store.create("commits/a.json", b"second")
    assert store.read("commits/a.json") == b"first"


def test_replace_needs_the_version_that_was_read(store: ObjectStore):
    created = store.create("a", b"1")
    content, etag = store.read_with_etag("a")
    assert (content, etag) == (b"1", created)
    second = store.replace("a", b"2", etag)
    assert store.read_with_etag("a") == (b"2", second)
    with pytest.raises(PreconditionError):
        store.replace("a", b"3", etag)
    assert store.read("a") == b"2"
    store.delete(["a"])
    with pytest.raises(PreconditionError):
        store.replace("a", b"4", second)
    with pytest.raises(PreconditionError):
        store.replace("never/was/here", b"4", second)


TURNS = 3
"""SeaweedFS needs a second or two per turn, because it makes the losers wait for a lock."""


def race(count: int, attempt) -> list[int]:
    """Start all writers at once and return the indices of those whose conditional write succeeded."""
    barrier = Barrier(count)

    def run(index: int) -> int | None:
        barrier.wait()
        try:
            attempt(index)
        except PreconditionError:
            return None
        return index

    with ThreadPoolExecutor(count) as pool:
        return [winner for winner in pool.map(run, range(count)) if winner is not None]


@pytest.mark.parametrize("store", ["local", "s3"], indirect=True)
def test_of_competing_creates_one_wins_and_its_content_stays(store: ObjectStore):
    for turn in range(TURNS):
        name = f"commits/{turn}"
        (winner,) = race(8, lambda index, name=name: store.create(name, b"writer %d" % index))
        assert store.read(name) == b"writer %d" % winner


@pytest.mark.parametrize("store", ["local", "s3"], indirect=True)
def test_of_competing_replaces_one_wins_and_its_content_stays(store: ObjectStore):
    etag = store.create("a", b"start")
    for turn in range(TURNS):
        contents = [b"turn %d, writer %d" % (turn, index) for index in range(8)]
        (winner,) = race(8, lambda index, c=contents, e=etag: store.replace("a", c[index], e))
        content, etag = store.read_with_etag("a")
        assert content == contents[winner]


def test_a_write_whose_answer_was_lost_is_recognised_as_the_winner(bucket: str, s3):
    """The server accepts the first try and hangs up, so the client's retry finds its own object."""
    with lossy_proxy(s3.endpoint_url) as (endpoint, lost):
        store = ObjectStore(bucket, StorageSettings(endpoint_url=endpoint, retries=3, timeout_s=10))
        etag = store.create("commits/a.json", b"attempt 1")
        assert lost == ["PUT"]
    store = ObjectStore(bucket, STORAGE)
    assert store.read_with_etag("commits/a.json") == (b"attempt 1", etag)
    with pytest.raises(PreconditionError):
        store.create("commits/a.json", b"attempt 2")


def test_of_competing_writers_of_equal_content_one_wins(bucket: str):
    store = ObjectStore(bucket, STORAGE)
    etag = store.create("counter", b"5")
    assert len(race(4, lambda _: store.replace("counter", b"6", etag))) == 1
    assert len(race(4, lambda _: store.create("other", b"6"))) == 1


def test_a_race_lost_on_a_retry_is_still_lost(bucket: str, s3):
    ObjectStore(bucket, STORAGE).write("commits/a.json", b"attempt 1")
    with lossy_proxy(s3.endpoint_url) as (endpoint, lost):
        store = ObjectStore(bucket, StorageSettings(endpoint_url=endpoint, retries=3, timeout_s=10))
        with pytest.raises(PreconditionError):
            store.create("commits/a.json", b"attempt 2")
        assert lost == ["PUT"]


@pytest.mark.parametrize("store", ["local", "s3"], indirect=True)
def test_a_counter_kept_by_replace_loses_no_step(store: ObjectStore):
    store.create("counter", b"0")

    def add(_: int) -> None:
        while True:
            content, etag = store.read_with_etag("counter")
            try:
                store.replace("counter", b"%d" % (int(content) + 1), etag)
            except PreconditionError:
                continue
            return

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(add, range(30)))
    assert store.read("counter") == b"30"


def test_readers_never_see_half_a_write(store: ObjectStore):
    contents = {bytes([65 + i]) * 300_000 for i in range(4)}
    store.write("a", next(iter(contents)))
    with ThreadPoolExecutor(2) as pool:
        writing = pool.submit(lambda: [store.write("a", content) for _ in range(5) for content in contents])
        while not writing.done():
            assert store.read("a") in contents
        writing.result()


def test_an_interrupted_local_write_leaves_the_old_content_and_no_debris(tmp_path, monkeypatch):
    store = ObjectStore(str(tmp_path / "out"))
    store.write("a", b"old")
    monkeypatch.setattr("os.fsync", _disk_full)
    for write in (store.write, store.create):
        with pytest.raises(OSError, match="No space left"):
            write("a", b"new")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]
    assert store.read("a") == b"old"


def _disk_full(_: int) -> None:
    raise OSError(28, "No space left on device")


def test_stores_travel_to_other_processes(store: ObjectStore):
    store.write("a", b"1")
    copy = pickle.loads(pickle.dumps(store))
    assert copy.uri == store.uri
    assert copy.settings == store.settings
    assert copy.read("a") == b"1"


@pytest.mark.parametrize(
    "uri", ["memory://", "memory:///", "memory://x", "/tmp", "/tmp/", "file:///tmp", "."]
)
def test_uris_lead_back_to_the_same_place(uri: str):
    store = ObjectStore(uri)
    assert ObjectStore(store.uri_of("")).root == store.root
    folder, name = ObjectStore(store.uri_of("some name.bin")).parent()
    assert (folder.root, name) == (store.root, "some name.bin")


def test_the_root_of_a_protocol_can_be_written_to():
    store = ObjectStore("memory://")
    name = f"{uuid4().hex}.bin"
    store.write(name, b"1")
    assert name in paths(store)
    assert store.read(name) == b"1"


def test_an_unknown_protocol_is_a_config_error():
    with pytest.raises(ConfigError, match="can't open this kind of URI"):
        ObjectStore("nosuch://x").read("a")


def refusal(call) -> str:
    with pytest.raises(STORAGE_ERRORS) as raised:
        call()
    return storage_error_text(raised.value)


def test_wrong_credentials_are_never_taken_for_an_empty_store(bucket: str, monkeypatch):
    store = ObjectStore(bucket, STORAGE)
    store.write("commits/a.json", b"{}")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-wrong")
    store.fs.clear_instance_cache()
    store = ObjectStore(bucket, STORAGE)
    calls = (
        lambda: list(store.list("commits")),
        lambda: list(store.glob("*")),
        lambda: store.read("commits/a.json"),
        lambda: store.read_with_etag("commits/a.json"),
        lambda: store.write("b", b"1"),
        lambda: store.create("b", b"1"),
        lambda: store.replace("commits/a.json", b"1", "etag"),
        store.is_folder,
    )
    for call in calls:
        text = refusal(call)
        assert "refused the credentials" in text
        assert "wrong-wrong" not in text


def test_a_store_that_is_down_says_so(s3_environment):
    store = ObjectStore(
        "s3://any", StorageSettings(endpoint_url="http://127.0.0.1:9", retries=0, timeout_s=2)
    )
    for call in (lambda: store.read("a"), lambda: store.create("a", b"1"), lambda: list(store.list())):
        assert "can't be reached" in refusal(call)


def test_local_permission_is_named(tmp_path: Path):
    assert storage_error_text(PermissionError(13, "Permission denied")) == "permission denied"
