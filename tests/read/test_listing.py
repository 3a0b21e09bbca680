"""Planning lists every input file as a shard with a stable name, or reports why there is nothing to do."""

from __future__ import annotations

import itertools
import os
import re
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import InputError
from actors.read.frames import read_frames
from actors.read.listing import list_shards
from actors.read.loose_images import list_members
from actors.read.settings import InputSettings
from actors.records import Shard
from actors.storage.layout import object_name, shard_id_of
from actors.storage.object_store import ObjectStore
from actors.storage.settings import StorageSettings
from tests.support import bad_inputs as bad

STORAGE = StorageSettings(retries=1, timeout_s=10)


def listed(uri: object, **options) -> list[Shard]:
    return list(list_shards(InputSettings(uri=str(uri), **options), STORAGE))


def ids(shards: list[Shard]) -> list[str]:
    return [shard.shard_id for shard in shards]


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


# --- what is found ---


def test_a_single_file_is_one_shard(tmp_path):
    write(tmp_path, {"day.tar": bad.good_tar(2), "other.tar": bad.good_tar(2)})
    (shard,) = listed(tmp_path / "day.tar")
    assert (shard.shard_id, shard.format, shard.uri) == ("day", "webdataset", str(tmp_path / "day.tar"))
    assert shard.size_bytes == (tmp_path / "day.tar").stat().st_size
    assert (shard.start, shard.stop, shard.members) == (0, None, b"")


def test_a_single_image_is_one_shard(tmp_path):
    write(tmp_path, bad.frames_with_sidecars(3))
    (shard,) = listed(tmp_path / "frame-001.jpg")
    assert (shard.format, list_members(shard.members)) == ("images", ["frame-001.jpg", "frame-001.json"])
    assert [frame.key for frame in read_frames(shard, InputSettings(), STORAGE)] == ["frame-001"]


def test_a_relative_path_becomes_absolute_for_workers_elsewhere(tmp_path, monkeypatch):
    write(tmp_path, {"in/day.tar": bad.good_tar(2)})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    for uri in (
        "in",
        "in/",
        "./in",
        "in/day.tar",
        "in/*.tar",
        f"file://{tmp_path}/in",
        "other/../in",
        "other/../in/*.tar",
        f"{tmp_path}/other/../in/day.tar",
        f"file://{tmp_path}/other/../in",
    ):
        assert [shard.uri for shard in listed(uri)] == [str(tmp_path / "in" / "day.tar")], uri


def test_a_file_named_outright_needs_no_extension_when_the_format_is_set(tmp_path):
    write(tmp_path, {"export.bin": bad.good_tar(2)})
    (shard,) = listed(tmp_path / "export.bin", format="webdataset")
    assert len(list(read_frames(shard, InputSettings(), STORAGE))) == 2
    with pytest.raises(InputError, match=r"found: \.bin x1"):
        listed(tmp_path / "export.bin")


def mixed_folder(tmp_path: Path) -> Path:
    return write(
        tmp_path / "in",
        {
            "b.tar": bad.good_tar(2),
            "a.tar.gz": bad.tar_gz(bad.frames(2)),
            "c.TGZ": bad.tar_gz(bad.frames(2)),
            "d.parquet": bad.parquet({"image": [bad.jpeg()]}),
            "e.zip": bad.zipped(bad.frames(2)),
            "z.jpg": bad.jpeg(),
            "z.json": b"{}",
            "lonely.json": b"{}",
            "README.txt": b"",
            "._b.tar": b"fork",
            ".hidden/x.tar": b"",
            "sub/f.tar": bad.good_tar(2),
            "sub/deep/g.png": bad.png(),
        },
    )


def test_a_mixed_folder_gives_each_file_by_its_extension(tmp_path):
    shards = listed(mixed_folder(tmp_path))
    assert [(shard.shard_id.split("-")[0], shard.format) for shard in shards] == [
        ("a", "webdataset"),
        ("b", "webdataset"),
        ("c", "webdataset"),
        ("d", "parquet"),
        ("e", "zip"),
        ("images", "images"),
        ("sub_f", "webdataset"),
        ("sub_deep", "images"),
    ]
    assert list_members(shards[5].members) == ["z.jpg", "z.json"]
    frames = [len(list(read_frames(shard, InputSettings(), STORAGE))) for shard in shards]
    assert frames == [2, 2, 2, 1, 2, 1, 2, 1]


@pytest.mark.parametrize(
    ("chosen", "count"), [("webdataset", 4), ("parquet", 1), ("zip", 1), ("images", 2), ("auto", 8)]
)
def test_a_configured_format_leaves_the_others_out(chosen: str, count: int, tmp_path):
    shards = listed(mixed_folder(tmp_path), format=chosen)
    assert len(shards) == count
    assert chosen == "auto" or {shard.format for shard in shards} == {chosen}


def test_a_glob_gives_what_matches_and_folders_that_match_with_all_in_them(tmp_path):
    tar = bad.good_tar(1)
    names = ["day-1.tar", "day-2.tar", "night-1.tar", "cam-1/x.tar", "cam-2/y.tar", "cam-2/z/w.tar"]
    write(tmp_path, dict.fromkeys(names, tar))
    assert ids(listed(f"{tmp_path}/day-*.tar")) == ["day-1", "day-2"]
    assert ids(listed(f"{tmp_path}/[dn]*-1.tar")) == ["day-1", "night-1"]
    assert len(listed(f"{tmp_path}/cam-?/*.tar")) == 2
    assert len(listed(f"{tmp_path}/cam-*")) == 3
    assert len(listed(f"{tmp_path}/**/*.tar")) == 6
    with pytest.raises(InputError, match="nothing matches"):
        listed(f"{tmp_path}/week-*.tar")


def test_a_glob_that_matches_files_and_folders_gives_each_file_once(tmp_path):
    files = {"b.jpg": bad.jpeg(), "a/x.jpg": bad.jpeg(), "a/y/z.jpg": bad.jpeg(), "z.jpg": bad.jpeg()}
    write(tmp_path / "in", files)
    for pattern in ("**", "*", "[a-z]*"):
        shards = listed(f"{tmp_path}/in/{pattern}")
        members = [list_members(shard.members) for shard in shards]
        assert members == [["b.jpg", "z.jpg"], ["x.jpg"], ["z.jpg"]], pattern


def test_a_name_with_glob_characters_that_exists_is_taken_as_it_is(tmp_path):
    write(tmp_path, {"day[1].tar": bad.good_tar(1), "in[2]/a.tar": bad.good_tar(1)})
    assert len(listed(tmp_path / "day[1].tar")) == 1
    assert ids(listed(tmp_path / "in[2]")) == ["a"]


def test_the_order_and_the_names_are_the_same_every_time(tmp_path):
    folder = mixed_folder(tmp_path)
    assert listed(folder) == listed(folder)


# --- groups of images ---


def test_images_are_grouped_in_the_order_of_their_names_with_their_sidecars(tmp_path):
    write(tmp_path, bad.frames_with_sidecars(10))
    shards = listed(tmp_path, frames_per_shard=4)
    assert len(shards) > 1
    assert len(set(ids(shards))) == len(shards)
    assert all(re.fullmatch("images-[0-9a-f]{12}", name) for name in ids(shards))
    members = [list_members(shard.members) for shard in shards]
    assert all(3 <= sum(name.endswith(".jpg") for name in names) <= 5 for names in members)
    assert sorted(itertools.chain(*members)) == sorted(bad.frames_with_sidecars(10))
    frames = [frame for shard in shards for frame in read_frames(shard, InputSettings(), STORAGE)]
    assert [frame.key for frame in frames] == [f"frame-{i:03d}" for i in range(10)]
    assert all(frame.camera for frame in frames)


def test_a_new_folder_changes_no_other_group(tmp_path):
    write(tmp_path, {f"cam-{c}/{i}.jpg": bad.jpeg() for c in (1, 3) for i in range(5)})
    before = listed(tmp_path, frames_per_shard=2)
    write(tmp_path, {f"cam-2/{i}.jpg": bad.jpeg() for i in range(5)} | {"cam-0/x/0.jpg": bad.jpeg()})
    after = listed(tmp_path, frames_per_shard=2)
    assert [shard for shard in after if shard in before] == before
    assert len(before) == 4
    assert len(after) == len(before) + 3
    assert [name.rpartition("-")[0] for name in ids(before)] == ["cam-1", "cam-1", "cam-3", "cam-3"]


def test_a_changed_image_or_sidecar_changes_the_identity_of_its_group_only(tmp_path):
    write(tmp_path, bad.frames_with_sidecars(4))
    before = listed(tmp_path, frames_per_shard=2)
    for name in ("frame-003.jpg", "frame-003.json"):
        (tmp_path / name).write_bytes(b"changed")
        after = listed(tmp_path, frames_per_shard=2)
        assert after[0].etag == before[0].etag
        assert after[1].etag != before[1].etag
        before = after


def test_a_folder_called_like_the_group_of_the_root_has_another_name(tmp_path):
    write(tmp_path, {"a.jpg": bad.jpeg(), "images/a.jpg": bad.jpeg()})
    first, second = ids(listed(tmp_path))
    assert re.fullmatch("images-[0-9a-f]{12}", first)
    assert re.fullmatch("_?images-[0-9a-f]{8}-[0-9a-f]{12}", second)


def test_an_image_that_sorts_first_changes_the_first_group_only(tmp_path):
    write(tmp_path, bad.frames_with_sidecars(40))
    before = listed(tmp_path, frames_per_shard=4)
    write(tmp_path, {"a.jpg": bad.jpeg()})
    after = listed(tmp_path, frames_per_shard=4)
    assert len(before) > 6
    assert 1 <= sum(shard not in before for shard in after) <= 2
    assert 1 <= sum(shard not in after for shard in before) <= 2


# --- sidecars ---


@pytest.mark.parametrize(
    "pattern", ["*.jpg", "frame-00[0-9].*", "frame-*", "frame-000.jpg", "../in/*.jpg", "", "../*/*.jpg"]
)
def test_sidecars_are_read_whatever_the_form_of_the_input(pattern: str, tmp_path):
    write(tmp_path / "in", bad.frames_with_sidecars(4) | {"frame-9.json": b"{}"})
    frames = [
        frame
        for shard in listed(f"{tmp_path}/in/{pattern}", frames_per_shard=2)
        for frame in read_frames(shard, InputSettings(), STORAGE)
    ]
    assert len(frames) == (1 if pattern == "frame-000.jpg" else 4)
    assert all(frame.camera and frame.captured_at and not frame.note for frame in frames)


def test_sidecars_are_left_alone_if_they_are_off(tmp_path):
    write(tmp_path, bad.frames_with_sidecars(2))
    for pattern in ("*.jpg", "frame-000.jpg", "*"):
        for shard in listed(f"{tmp_path}/{pattern}", sidecars=False):
            assert all(name.endswith(".jpg") for name in list_members(shard.members))


def test_a_sidecar_in_capitals_is_found_beside_a_single_image(tmp_path):
    write(tmp_path, {"A.JPG": bad.jpeg(), "A.JSON": b'{"camera": "till"}'})
    for uri in (tmp_path / "A.JPG", tmp_path):
        (shard,) = listed(uri)
        assert list_members(shard.members) == ["A.JPG", "A.JSON"]


def test_sidecars_beside_a_glob_of_images_are_found_in_a_bucket(bucket: str):
    store = ObjectStore(f"{bucket}/in", STORAGE)
    for name, content in bad.frames_with_sidecars(3).items():
        store.write(f"cam-1/{name}", content)
    for uri in (f"{bucket}/in/cam-1/*.jpg", f"{bucket}/in/*/*.jpg", f"{bucket}/in/cam-1/frame-001.jpg"):
        (shard,) = listed(uri)
        frames = list(read_frames(shard, InputSettings(), STORAGE))
        assert frames
        assert all(frame.camera for frame in frames)


# --- parts ---


def test_a_large_tar_is_planned_as_parts_that_cover_it(tmp_path):
    write(tmp_path, {"big.tar": bad.good_tar(60), "small.tar": bad.good_tar(1)})
    size = (tmp_path / "big.tar").stat().st_size
    *parts, small = listed(tmp_path, max_shard_bytes=size // 3)
    assert ids(parts) == [f"big.part-{i:05d}" for i in range(len(parts))]
    assert small.shard_id == "small"
    assert parts[0].start == 0
    assert parts[-1].stop is None
    assert [part.stop for part in parts[:-1]] == [part.start for part in parts[1:]]
    assert sum(part.size_bytes for part in parts) == size
    assert all(part.size_bytes <= size // 3 + 512 for part in parts)
    assert len({part.etag for part in parts}) == len(parts)


def test_another_division_of_the_same_file_is_another_input(tmp_path):
    write(tmp_path, {"big.tar": bad.good_tar(60)})
    one = {shard.shard_id: shard.etag for shard in listed(tmp_path, max_shard_bytes=20_000)}
    two = {shard.shard_id: shard.etag for shard in listed(tmp_path, max_shard_bytes=30_000)}
    shared = one.keys() & two.keys()
    assert shared
    assert all(one[name] != two[name] for name in shared)


@pytest.mark.parametrize("name", ["a.tar.gz", "a.zip", "a.parquet"])
def test_a_large_file_that_can_not_be_divided_is_one_shard(name: str, tmp_path):
    write(tmp_path, {name: b"neither zip nor Parquet nor gzip" * 1000})
    assert ids(listed(tmp_path, max_shard_bytes=5000)) == ["a"]


# --- names ---


@pytest.mark.parametrize("key", ["a", "cam-1_x.part-00000", "A.B", "x" * 120])
def test_a_safe_name_stays_as_it_is(key: str):
    assert object_name(key) == key


@pytest.mark.parametrize(
    "key", ["", ".", "..", "../a", "/a", "a/b", ".hidden", "a b", "日本", "x" * 121, "a\0b", "caf\udce9"]
)
def test_any_other_name_becomes_safe_and_has_a_hash(key: str):
    name = object_name(key)
    assert name != key
    assert len(name) <= 120
    assert name.isascii()
    assert not set(name) - set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
    assert not name.startswith(".")


@given(st.lists(st.text(max_size=150), unique=True, max_size=30))
def test_different_keys_have_different_names(keys: list[str]):
    names = {object_name(key) for key in keys}
    assert len(names) == len(keys)
    assert all(shard_id_of(f"commits/{name}.json") == name for name in names)


def test_two_inputs_of_one_name_are_refused_naming_both(tmp_path):
    write(tmp_path, {"day.tar": bad.good_tar(1), "day.zip": bad.zipped(bad.frames(1))})
    with pytest.raises(InputError, match=r"day\.tar and .*day\.zip would both be shard 'day'; rename one"):
        listed(tmp_path)
    assert ids(listed(tmp_path, format="zip")) == ["day"]


# --- nothing to do ---


def test_an_input_that_is_not_set_is_said():
    with pytest.raises(InputError, match=r"input\.uri is not set: pass --input"):
        list(list_shards(InputSettings(), STORAGE))


@pytest.mark.parametrize("name", ["gone", "gone.tar", "gone/deeper", "gone/*.tar"])
def test_a_missing_input_is_said(name: str, tmp_path):
    with pytest.raises(InputError, match=r"there is nothing at this input; check input\.uri"):
        listed(tmp_path / name)


def test_an_empty_input_is_said(tmp_path):
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    with pytest.raises(InputError, match=r"is empty; check input\.uri"):
        listed(tmp_path / "empty")


def test_an_input_of_other_things_says_what_there_is(tmp_path):
    write(tmp_path, {"a.txt": b"", "b/c.txt": b"", "d.csv": b"", "e.json": b"", "Makefile": b""})
    with pytest.raises(InputError) as raised:
        listed(tmp_path)
    assert "holds no tar, Parquet, zip or images (found: .txt x2, no extension x1, .csv x1, .json x1)" in str(
        raised.value
    )
    with pytest.raises(
        InputError, match=r"holds no images \(found: .*\); check input\.uri and input\.format"
    ):
        listed(write(tmp_path, {"f.tar": b"x"}), format="images")


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read every folder")
def test_an_unreadable_folder_is_said_and_not_taken_for_an_empty_one(tmp_path):
    folder = write(tmp_path / "in", {"a.tar": b"x", "locked/b.tar": b"x"})
    (folder / "locked").chmod(0)
    try:
        with pytest.raises(InputError, match="can't be listed: permission denied"):
            listed(folder)
    finally:
        (folder / "locked").chmod(stat.S_IRWXU)


def test_an_unknown_protocol_is_said():
    with pytest.raises(Exception, match="nosuch://x: can't open this kind of URI"):
        listed("nosuch://x")
