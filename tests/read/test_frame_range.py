"""Parts of a shard by ranges of frames hold each frame once, in order, in every format."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.errors import ShardError
from actors.read.frame_range import frames_of
from actors.read.frames import read_frames
from actors.read.loose_images import pack_members
from actors.read.parts import split_shard
from actors.read.settings import InputSettings
from actors.read.tar_members import TarMember
from actors.records import Frame, Shard
from tests.support import bad_inputs as bad
from tests.support.shards_on_disk import STORAGE, read_until_error, shard_of

KEYED = InputSettings(key_column="key")


def files_with_everything() -> list[tuple[str, bytes]]:
    """Return twelve images: some with sidecars before or after them, two with one key, and a duplicate."""
    files: list[tuple[str, bytes]] = []
    for index, (name, content) in enumerate(bad.frames(9).items()):
        sidecar = (name.replace(".jpg", ".json"), f'{{"camera": "cam-{index}"}}'.encode())
        files += [[(name, content)], [(name, content), sidecar], [sidecar, (name, content)]][index % 3]
    files += [("two.jpg", bad.jpeg()), ("two.png", bad.png()), ("two.json", b'{"camera": "late"}')]
    return [*files, ("notes.txt", b"-"), ("frame-001.jpg", bad.jpeg(seed=77))]


def a_tar(folder: Path) -> Shard:
    return shard_of(folder / "x.tar", bad.tar(files_with_everything()))


def a_compressed_tar(folder: Path) -> Shard:
    return shard_of(folder / "x.tar.gz", gzip.compress(bad.tar(files_with_everything())))


def a_zip(folder: Path) -> Shard:
    return shard_of(folder / "x.zip", bad.zipped(files_with_everything()[:-1]), "zip")


def a_row_group(folder: Path) -> Shard:
    images = list(bad.frames(12).values())
    columns = {"image": images, "key": [f"k{i % 10}" for i in range(12)], "camera": ["a", "b"] * 6}
    return shard_of(folder / "x.parquet", bad.parquet(columns, row_group_size=100), "parquet")


def several_row_groups(folder: Path) -> Shard:
    images = list(bad.frames(12).values())
    columns = {"image": images, "key": [f"k{i % 10}" if i != 3 else None for i in range(12)]}
    return shard_of(folder / "x.parquet", bad.parquet(columns, row_group_size=5), "parquet")


def loose_images(folder: Path) -> Shard:
    names = []
    for name, content in files_with_everything():
        shard_of(folder / name, content)
        names.append(name)
    return Shard("images-0", str(folder), "images", "etag", 1, members=pack_members(sorted(set(names))))


def second_part_of_a_tar(folder: Path) -> Shard:
    shard = a_tar(folder)
    return list(split_shard(shard, shard.size_bytes // 2 + 512, STORAGE))[1]


SHARDS = [a_tar, a_compressed_tar, a_zip, a_row_group, several_row_groups, loose_images, second_part_of_a_tar]


def read_cut(shard: Shard, cuts: list[int]) -> list[Frame]:
    parts = [frames_of(shard, *range_) for range_ in pairwise([0, *cuts, None])]
    assert len({part.shard_id for part in parts}) == len(parts)
    return [frame for part in parts for frame in read_frames(part, KEYED_OR_NOT[shard.format], STORAGE)]


KEYED_OR_NOT = {
    "parquet": KEYED,
    "webdataset": InputSettings(),
    "zip": InputSettings(),
    "images": InputSettings(),
}


@pytest.mark.parametrize("make", SHARDS)
def test_the_ranges_of_a_shard_have_every_frame_once_in_order(make: Callable[[Path], Shard], tmp_path):
    shard = make(tmp_path)
    whole = read_cut(shard, [])
    assert len(whole) >= 4

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(cuts=st.lists(st.integers(1, len(whole) + 2), max_size=5, unique=True).map(sorted))
    def check(cuts: list[int]) -> None:
        assert read_cut(shard, cuts) == whole

    check()


def test_a_duplicate_is_the_later_frame_in_whatever_part_it_is(tmp_path):
    for make in (a_tar, a_compressed_tar, a_row_group):
        shard = make(tmp_path)
        whole = read_cut(shard, [])
        errors = [frame.error for frame in read_cut(shard, list(range(1, len(whole))))]
        assert sum("duplicate key" in str(error) for error in errors) == 2, make.__name__


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_images_before_the_first_frame_are_not_read(compress, tmp_path, monkeypatch):
    suffix = "tar" if compress is bytes else "tar.gz"
    shard = shard_of(tmp_path / f"x.{suffix}", compress(bad.tar(bad.frames(20))))
    read = []

    class Watched(TarMember):
        def __getattribute__(self, name: str):
            if name == "read":
                read.append(super().__getattribute__("name"))
            return super().__getattribute__(name)

    monkeypatch.setattr("actors.read.tar_members.TarMember", Watched)
    list(read_frames(frames_of(shard, 15, 17), InputSettings(), STORAGE))
    assert read == ["frame-015.jpg", "frame-016.jpg"]


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_a_truncation_is_an_error_of_the_part_that_sees_it(suffix: str, tmp_path):
    content = bad.tar(bad.frames(20))
    content = content[: bad.tar_member_offsets(content)[12] + 700]
    shard = shard_of(tmp_path / f"x.{suffix}", content if suffix == "tar" else gzip.compress(content))
    first = list(read_frames(frames_of(shard, 0, 10), InputSettings(), STORAGE))
    assert [frame.key for frame in first] == [f"frame-{i:03d}" for i in range(10)]
    found, error = read_until_error(frames_of(shard, 10, None))
    assert [frame.key for frame in found] == ["frame-010", "frame-011"]
    assert "truncated" in error


def test_a_range_beyond_the_end_of_a_shard_is_empty(tmp_path):
    for make in SHARDS:
        shard = make(tmp_path / make.__name__)
        assert not list(read_frames(frames_of(shard, 50, None), KEYED_OR_NOT[shard.format], STORAGE))


def test_a_compressed_tar_cut_within_its_gzip_stream_fails_only_the_last_part(tmp_path):
    whole = gzip.compress(bad.tar(bad.frames(20)))
    shard = shard_of(tmp_path / "x.tar.gz", whole[: len(whole) // 2])
    assert len(list(read_frames(frames_of(shard, 0, 3), InputSettings(), STORAGE))) == 3
    with pytest.raises(ShardError, match="truncated"):
        list(read_frames(frames_of(shard, 3, None), InputSettings(), STORAGE))
