"""The parts of a file hold each of its frames once, in order, and damage fails only the part it is in."""

from __future__ import annotations

import tarfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.errors import ShardError
from actors.read import tar_members as tar_stream
from actors.read.frames import read_frames
from actors.read.parts import split_shard
from actors.read.settings import InputSettings
from actors.records import Frame, Shard
from tests.support import bad_inputs as bad
from tests.support.shards_on_disk import STORAGE, read_until_error, shard_of


def read_parts(shard: Shard, max_bytes: int) -> tuple[list[Frame], list[str]]:
    """Return the frames of all parts in order, and the errors of the parts that failed."""
    found: list[Frame] = []
    errors = []
    for part in split_shard(shard, max_bytes, STORAGE):
        try:
            found.extend(read_frames(part, InputSettings(), STORAGE))
        except ShardError as error:
            errors.append(str(error))
    return found, errors


@pytest.fixture(params=[4096, 65_536])
def look_back(request, monkeypatch):
    """A short look-back and the default, with which small files are always scanned from their beginning."""
    monkeypatch.setattr(tar_stream, "_LOOK_BACK_BYTES", request.param)


_EXTENSIONS = st.sampled_from(["jpg", "json", "txt", "png"])


@st.composite
def tar_files(draw) -> list[tuple[str, bytes]]:
    """Samples of 1 to 4 members with odd sizes; some have long names and some are empty."""
    files = []
    for index in range(draw(st.integers(1, 12))):
        stem = f"{index:03d}" + "n" * draw(st.sampled_from([0, 0, 0, 90, 150, 300]))
        for extension in draw(st.lists(_EXTENSIONS, min_size=1, max_size=4, unique=True)):
            size = draw(st.sampled_from([0, 1, 511, 512, 513, 1500, 5000, 20_000]))
            content = b"{}" if extension == "json" else bytes([index % 250 + 1]) * size
            files.append((f"{stem}.{extension}", content))
    return files


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=tar_files(),
    tar_format=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    max_bytes=st.integers(512, 30_000),
)
def test_the_parts_of_a_tar_have_every_frame_once_in_order(
    files, tar_format: int, max_bytes: int, tmp_path, look_back
):
    if tar_format == tarfile.USTAR_FORMAT:
        files = [(name[-60:], content) for name, content in files if len(name) < 60]
    if not any(name.endswith(("jpg", "png")) for name, _ in files):
        return
    shard = shard_of(tmp_path / "x.tar", bad.tar(files, tar_format))
    whole = list(read_frames(shard, InputSettings(), STORAGE))
    found, errors = read_parts(shard, max_bytes)
    assert found == whole
    assert all("contains no images" in error for error in errors)


@pytest.mark.parametrize("max_bytes", [4096, 10_000, 33_333, 100_000])
def test_the_parts_of_a_tar_of_frames_are_the_tar(max_bytes: int, tmp_path, look_back):
    shard = shard_of(tmp_path / "x.tar", bad.good_tar(30))
    whole = list(read_frames(shard, InputSettings(), STORAGE))
    assert read_parts(shard, max_bytes) == (whole, [])
    assert len(whole) == 30
    assert all(frame.camera for frame in whole)


def test_a_cut_tar_fails_in_the_part_that_is_cut_only(tmp_path):
    content = bad.good_tar(30)
    shard = shard_of(tmp_path / "x.tar", content[: len(content) * 2 // 3])
    *parts, last = split_shard(shard, 10_000, STORAGE)
    assert parts
    assert all(list(read_frames(part, InputSettings(), STORAGE)) for part in parts)
    read_until_error(last)


def test_a_damaged_header_fails_its_part(tmp_path, look_back):
    content = bad.tar(bad.frames(30))
    offsets = bad.tar_member_offsets(content)
    for broken in range(1, 30):
        shard = shard_of(tmp_path / "x.tar", bad.with_flipped_byte(content, offsets[broken] + 3))
        found, errors = read_parts(shard, 10_000)
        assert len(errors) in (1, 2)
        assert len(found) < 30


def test_a_tar_within_a_tar_is_never_read_as_frames_of_the_outer_without_a_word(tmp_path):
    inner = bad.tar(bad.frames(200))
    files = [("a.jpg", bad.jpeg()), ("b.bin", inner), ("c.jpg", bad.jpeg(seed=1))]
    shard = shard_of(tmp_path / "x.tar", bad.tar(files))
    _, errors = read_parts(shard, 100_000)
    assert any("set input.max_shard_bytes above the size" in error for error in errors)


def test_an_old_tar_without_magic_is_read_whole_and_refused_in_parts(tmp_path):
    content = bytearray(bad.tar(bad.frames(10), tarfile.USTAR_FORMAT))
    for offset in bad.tar_member_offsets(bytes(content)):
        content[offset + 257 : offset + 265] = bytes(8)
        content[offset + 148 : offset + 156] = b" " * 8
        checksum = sum(content[offset : offset + 512])
        content[offset + 148 : offset + 156] = b"%06o\0 " % checksum
    shard = shard_of(tmp_path / "x.tar", bytes(content))
    assert len(list(read_frames(shard, InputSettings(), STORAGE))) == 10
    first = next(iter(split_shard(shard, 10_000, STORAGE)))
    with pytest.raises(ShardError, match=r"set input\.max_shard_bytes above the size"):
        list(read_frames(first, InputSettings(), STORAGE))


@pytest.mark.parametrize("max_bytes", [4096, 7000, 50_000])
def test_the_parts_of_a_zip_are_the_zip(max_bytes: int, tmp_path):
    files = list(bad.frames_with_sidecars(30).items())
    files.sort(key=lambda file: file[0].endswith(".json"))
    files.insert(40, ("frame-003.png", bad.png()))
    shard = shard_of(tmp_path / "x.zip", bad.zipped(files), "zip")
    whole = list(read_frames(shard, InputSettings(), STORAGE))
    assert read_parts(shard, max_bytes) == (whole, [])
    assert [frame.error for frame in whole if frame.error] == [
        "duplicate key: frame-003.png has the key of frame-003.jpg before it"
    ]


@pytest.mark.parametrize("max_bytes", [4096, 20_000, 50_000])
@pytest.mark.parametrize("row_group_size", [1, 7, 30])
def test_the_parts_of_a_parquet_file_are_the_file(max_bytes: int, row_group_size: int, tmp_path):
    content = bad.parquet({"image": list(bad.frames(30).values())}, row_group_size)
    shard = shard_of(tmp_path / "x.parquet", content, "parquet")
    whole = list(read_frames(shard, InputSettings(), STORAGE))
    assert read_parts(shard, max_bytes) == (whole, [])
    assert [frame.key for frame in whole] == [f"{i:09d}" for i in range(30)]
    parts = len(list(split_shard(shard, max_bytes, STORAGE)))
    assert (parts > 1) == (row_group_size < 30 and max_bytes < len(content))
