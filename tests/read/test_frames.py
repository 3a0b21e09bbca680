"""How the reader handles odd and broken shards of every format: damage affects only what is damaged."""

from __future__ import annotations

import io
import tarfile
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from actors.errors import ShardUnavailableError, StoreError
from actors.read.frames import read_frames
from actors.read.loose_images import list_members, pack_members
from actors.read.parquet_frames import read_parquet
from actors.read.settings import InputSettings
from actors.records import Frame, Shard
from actors.storage.object_store import ObjectStore
from tests.support import bad_inputs as bad
from tests.support.shards_on_disk import STORAGE, read_until_error, shard_of

SUFFIXES = {"webdataset": ".tar", "zip": ".zip", "parquet": ".parquet"}


@pytest.fixture
def read(tmp_path):
    """Return a function that reads all frames of a shard with the given content."""

    def read_bytes(content: bytes, kind: str = "webdataset", suffix: str | None = None, **options):
        shard = shard_of(tmp_path / f"shard{suffix or SUFFIXES[kind]}", content, kind)
        return list(read_frames(shard, InputSettings(**options), STORAGE))

    return read_bytes


# --- broken shards ---


@pytest.mark.parametrize("name", bad.BAD_TARS)
def test_a_broken_tar_fails_the_shard_after_the_frames_before_the_damage(name: str, tmp_path):
    build, reason, good = bad.BAD_TARS[name]
    found, error = read_until_error(shard_of(tmp_path / "x.tar", build()))
    assert reason in error
    assert [frame.key for frame in found] == [f"frame-{i:03d}" for i in range(good)]
    assert all(frame.error is None for frame in found)


def test_a_tar_cut_at_any_byte_never_passes_as_whole(tmp_path):
    content = bad.tar({f"{i}.jpg": bytes([i + 1]) * 700 for i in range(3)})
    end = bad.tar_member_offsets(content)[-1] + 512 + 1024
    for length in range(0, end + 512, 37):
        shard = shard_of(tmp_path / "x.tar", content[:length])
        found, _ = read_until_error(shard)
        assert all(frame.data == bytes([int(frame.key) + 1]) * 700 for frame in found)


@pytest.mark.parametrize("at", [0, 100, 148, 156, 257, 345])
def test_a_flipped_byte_in_any_header_field_is_noticed(at: int, tmp_path):
    content = bad.tar(bad.frames(4))
    for offset in bad.tar_member_offsets(content):
        shard = shard_of(tmp_path / "x.tar", bad.with_flipped_byte(content, offset + at))
        read_until_error(shard)


@pytest.mark.parametrize("name", bad.BAD_GZIPPED_TARS)
def test_a_broken_gzipped_tar_fails_the_shard(name: str, tmp_path):
    build, reason = bad.BAD_GZIPPED_TARS[name]
    _, error = read_until_error(shard_of(tmp_path / "x.tar.gz", build()))
    assert reason in error


@pytest.mark.parametrize("name", bad.BAD_ZIPS)
def test_a_broken_zip_fails_the_shard(name: str, tmp_path):
    build, reason = bad.BAD_ZIPS[name]
    found, error = read_until_error(shard_of(tmp_path / "x.zip", build(), "zip"))
    assert reason in error
    assert not found


@pytest.mark.parametrize("name", bad.BAD_PARQUETS)
def test_a_broken_parquet_file_fails_the_shard(name: str, tmp_path):
    build, reason = bad.BAD_PARQUETS[name]
    found, error = read_until_error(shard_of(tmp_path / "x.parquet", build(), "parquet"))
    assert reason in error
    assert not found


@pytest.mark.parametrize("setting", ["key_column", "camera_column", "captured_at_column"])
def test_a_configured_column_that_is_missing_fails_the_shard(setting: str, tmp_path):
    shard = shard_of(tmp_path / "x.parquet", bad.parquet({"image": [bad.jpeg()]}), "parquet")
    _, error = read_until_error(shard, **{setting: "nowhere"})
    assert f"has no column 'nowhere'; set input.{setting} to one of: image" in error


@pytest.mark.parametrize("kind", SUFFIXES)
def test_an_object_that_went_away_makes_the_shard_unavailable(kind: str, tmp_path):
    shard = Shard("x", str(tmp_path / "gone"), kind, "etag", 100)
    with pytest.raises(ShardUnavailableError, match="gone: no longer there"):
        list(read_frames(shard, InputSettings(), STORAGE))


def test_a_folder_of_images_that_was_moved_makes_the_shard_unavailable(tmp_path):
    (tmp_path / "images").mkdir()
    shard = images_shard(tmp_path / "images", bad.frames(3))
    (tmp_path / "images").rename(tmp_path / "moved")
    with pytest.raises(
        ShardUnavailableError, match="none of its 3 images can be read; the first is no longer"
    ):
        list(read_frames(shard, InputSettings(), STORAGE))


def test_a_store_that_fails_within_a_parquet_file_is_no_damage(tmp_path):
    class Failing(io.FileIO):
        def read(self, size=-1):
            if self.tell() == 4:  # the footer at the end is read first
                raise ConnectionResetError("the connection was lost")
            return super().read(size)

    shard = shard_of(tmp_path / "x.parquet", bad.parquet({"image": [bad.jpeg()] * 4}), "parquet")
    with pytest.raises(StoreError, match="the connection was lost"):
        list(read_parquet(Failing(shard.uri), shard, InputSettings()))


def test_a_damaged_row_group_fails_the_shard_after_the_ones_before(tmp_path):
    images = [bad.jpeg(seed=i, width=200, height=200) for i in range(40)]
    content = bytearray(bad.parquet({"image": images}, row_group_size=10))
    content[len(content) // 2 : len(content) // 2 + 20_000] = bytes(20_000)
    found, _ = read_until_error(shard_of(tmp_path / "x.parquet", bytes(content), "parquet"))
    assert 10 <= len(found) < 40


# --- good shards ---


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_gives_its_frames_in_order_with_their_sidecars(tar_format: int, read):
    found = read(bad.tar(bad.frames_with_sidecars(4), tar_format))
    assert [frame.key for frame in found] == [f"frame-{i:03d}" for i in range(4)]
    assert [frame.data for frame in found] == list(bad.frames(4).values())
    assert [frame.camera for frame in found] == ["cam-0", "cam-1", "cam-0", "cam-1"]
    assert found[3].captured_at == datetime(2024, 5, 1, 10, 0, 3, tzinfo=UTC)
    assert all(frame.error is None and frame.note is None for frame in found)


@pytest.mark.parametrize("suffix", [".tar.gz", ".tgz"])
def test_a_gzipped_tar_is_read_like_a_tar(suffix: str, read):
    assert read(bad.tar_gz(bad.frames_with_sidecars(4)), suffix=suffix) == read(bad.good_tar(4))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_gives_the_frames_of_a_tar(compression: int, read):
    files = bad.frames_with_sidecars(4)
    assert read(bad.zipped(files, compression), "zip") == read(bad.tar(files))


def test_sidecars_may_come_first_in_a_tar_and_anywhere_in_a_zip(read):
    files = list(bad.frames_with_sidecars(3).items())
    first = [files[i] for i in (1, 0, 3, 2, 5, 4)]
    last = sorted(files, key=lambda file: file[0].endswith(".json"))
    expected = read(bad.tar(files))
    assert read(bad.tar(first)) == expected
    assert read(bad.zipped(last), "zip") == expected


def test_a_parquet_file_gives_a_frame_a_row_with_its_columns(read):
    images = list(bad.frames(3).values())
    times = [datetime(2024, 1, 1, 12, tzinfo=UTC), None, datetime(2024, 1, 2, 12, 30, tzinfo=UTC)]
    content = bad.parquet(
        {
            "image": images,
            "camera": ["a", None, "b"],
            "captured_at": pa.array(times, pa.timestamp("ns", "UTC")),
        }
    )
    found = read(content, "parquet")
    assert [frame.data for frame in found] == images
    assert [frame.key for frame in found] == ["000000000", "000000001", "000000002"]
    assert [frame.camera for frame in found] == ["a", None, "b"]
    assert [frame.captured_at for frame in found] == times
    assert all(type(frame.captured_at) in (datetime, type(None)) for frame in found)


@pytest.mark.parametrize("column", ["binary", "large_binary", "binary_view", "struct"])
def test_images_in_parquet_may_be_bytes_of_any_arrow_type_or_hugging_face_structs(column: str, read):
    images = list(bad.frames(3).values())
    if column == "struct":
        array = pa.array([{"bytes": data, "path": f"{i}.jpg"} for i, data in enumerate(images)])
    else:
        array = pa.array(images, getattr(pa, column)())
    assert [frame.data for frame in read(bad.parquet({"image": array}), "parquet")] == images


def test_parquet_columns_may_have_any_name(read):
    content = bad.parquet({"jpg": [bad.jpeg()], "id": [17], "cam": ["x"], "ts": [1_700_000_000]})
    names = {"image_column": "jpg", "key_column": "id", "camera_column": "cam", "captured_at_column": "ts"}
    (frame,) = read(content, "parquet", **names)
    assert (frame.key, frame.camera) == ("17", "x")
    assert frame.captured_at == datetime.fromtimestamp(1_700_000_000, UTC)


def test_loose_images_are_read_in_the_order_of_their_names_with_sidecars(tmp_path):
    files = bad.frames_with_sidecars(20)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    shard = Shard("x", str(tmp_path), "images", "etag", 1, members=pack_members(list(files)))
    found = list(read_frames(shard, InputSettings(), STORAGE))
    assert [frame.key for frame in found] == [f"frame-{i:03d}" for i in range(20)]
    assert [frame.data for frame in found] == list(bad.frames(20).values())
    assert {frame.camera for frame in found} == {"cam-0", "cam-1"}


def test_memory_and_local_paths_give_the_same_frames(read):
    content = bad.good_tar(3)
    store = ObjectStore("memory://reader")
    store.write("a.tar", content)
    shard = Shard("a", "memory://reader/a.tar", "webdataset", "etag", len(content))
    assert list(read_frames(shard, InputSettings(), STORAGE)) == read(content)


# --- frames with something wrong ---


def images_shard(tmp_path: Path, files: dict[str, bytes]) -> Shard:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    return Shard("x", str(tmp_path), "images", "etag", 1, members=pack_members(list(files)))


def frames_in_each_format(tmp_path: Path, files: dict[str, bytes], **options) -> dict[str, list[Frame]]:
    """Read the same files as a tar, a zip and loose images."""
    shards = {
        "webdataset": shard_of(tmp_path / "s" / "x.tar", bad.tar(files)),
        "zip": shard_of(tmp_path / "s" / "x.zip", bad.zipped(files), "zip"),
        "images": images_shard(tmp_path, files),
    }
    chosen = InputSettings(**options)
    return {kind: list(read_frames(shard, chosen, STORAGE)) for kind, shard in shards.items()}


def test_an_empty_image_and_one_over_the_limit_are_errors_and_the_rest_is_read(tmp_path):
    files = {"a.jpg": bad.jpeg(), "b.jpg": b"", "c.jpg": bytes(5000), "d.jpg": bad.jpeg(seed=2)}
    for kind, found in frames_in_each_format(tmp_path, files, max_image_bytes=4999).items():
        assert [frame.key for frame in found] == ["a", "b", "c", "d"], kind
        assert [frame.data for frame in found] == [files["a.jpg"], None, None, files["d.jpg"]], kind
        assert found[1].error == "empty (0 bytes)"
        assert found[2].error.startswith(
            "too large: 5000 bytes, more than input.max_image_bytes allows (4999)"
        )


def test_two_images_of_one_key_give_an_error_on_the_later(tmp_path):
    files = {"a.jpg": bad.jpeg(), "a.png": bad.png(), "b.jpg": bad.jpeg()}
    for kind, found in frames_in_each_format(tmp_path, files).items():
        assert [frame.key for frame in found] == ["a", "a", "b"], kind
        assert found[1].error == "duplicate key: a.png has the key of a.jpg before it", kind
        assert found[1].data is None
        assert [frame.error for frame in (found[0], found[2])] == [None, None]


def test_a_name_that_comes_twice_gives_an_error_on_the_later(read):
    files = [("a.jpg", bad.jpeg()), ("b.jpg", bad.jpeg()), ("a.jpg", bad.jpeg(seed=1))]
    with pytest.warns(UserWarning, match="Duplicate name"):
        zipped = bad.zipped(files)
    for found in (read(bad.tar(files)), read(zipped, "zip")):
        assert [frame.error is None for frame in found] == [True, True, False]
        assert found[0].data == files[0][1]
    rows = {"image": [content for _, content in files], "key": [name for name, _ in files]}
    found = read(bad.parquet(rows), "parquet", key_column="key")
    assert found[2].error == "duplicate key: row 2 has the key of row 0 before it"


ODD_NAMES = {
    "../../etc/passwd.jpg": "../../etc/passwd",
    "/absolute/a.jpg": "/absolute/a",
    "./dotted/b.jpg": "dotted/b",
    "with space.JPG": "with space",
    "日本/カメラ.jpg": "日本/カメラ",
    "new\nline.jpeg": "new\nline",
    "x" * 200 + ".webp": "x" * 200,
}


@pytest.mark.parametrize("kind", ["webdataset", "zip"])
def test_odd_names_are_kept_as_keys_and_never_used_as_paths(kind: str, read, tmp_path):
    files = dict.fromkeys(ODD_NAMES, bad.jpeg())
    found = read(bad.tar(files) if kind == "webdataset" else bad.zipped(files), kind)
    assert [frame.key for frame in found] == list(ODD_NAMES.values())
    assert all(frame.data == bad.jpeg() for frame in found)


def test_names_that_are_not_utf_8_become_keys_that_are(read):
    content = bad.tar({"caf\udce9.jpg": bad.jpeg()})
    (frame,) = read(content)
    assert frame.key == "caf\\xe9"


def test_a_webdataset_key_ends_at_the_first_dot(read):
    files = {"dir.v1/cam.left.jpg": bad.jpeg(), "dir.v1/cam.json": b'{"camera": "c"}'}
    (frame,) = read(bad.tar(files))
    assert (frame.key, frame.camera) == ("dir.v1/cam", "c")


def test_resource_forks_folders_and_links_are_no_frames(read):
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        folder = tarfile.TarInfo("dir.jpg")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in (("._a.jpg", b"fork"), ("a.jpg", bad.jpeg()), ("._a.json", b"fork")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        sidecar = tarfile.TarInfo("a.json")
        sidecar.size = 15
        archive.addfile(sidecar, io.BytesIO(b'{"camera": "c"}'))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo("link.jpg")
            link.type, link.linkname = kind, "a.jpg"
            archive.addfile(link)
    (frame,) = read(sink.getvalue())
    assert (frame.key, frame.data, frame.camera) == ("a", bad.jpeg(), "c")
    files = {"dir.jpg/": b"", "__MACOSX/._a.jpg": b"fork", "a.jpg": bad.jpeg()}
    assert [frame.key for frame in read(bad.zipped(files), "zip")] == ["a"]


BAD_SIDECARS = {
    b"not json": "not JSON",
    b"": "not JSON",
    b"\xff\xfe\x00": "not JSON",
    b"[" * 100_000: "not JSON",
    b"[1, 2]": "holds a list, not an object",
    b'{"camera": {"id": 1}}': "camera is a dict, not text",
    b'{"camera": true}': "camera is a bool, not text",
    b'{"captured_at": "yesterday"}': "captured_at 'yesterday' is neither ISO 8601 nor seconds",
    b'{"captured_at": 1700000000000000}': "is neither",
    b'{"captured_at": NaN}': "is neither",
    b'{"captured_at": 1e400}': "is neither",
    b'{"captured_at": "0001-01-01T00:00:00+23:00"}': "is neither",
    b"{}" + b" " * 2**20: "too large for a sidecar",
}


@pytest.mark.parametrize("content", BAD_SIDECARS, ids=[c[:30].decode("latin-1") for c in BAD_SIDECARS])
def test_a_sidecar_that_makes_no_sense_is_noted_and_the_frame_is_read(content: bytes, tmp_path):
    files = {"a.jpg": bad.jpeg(), "a.json": content, "b.jpg": bad.jpeg(seed=1)}
    for kind, found in frames_in_each_format(tmp_path, files).items():
        assert [frame.data is not None for frame in found] == [True, True], kind
        assert BAD_SIDECARS[content] in found[0].note, kind
        assert found[0].note.startswith("sidecar a.json"), kind
        assert found[0].camera is None
        assert found[0].captured_at is None
        assert found[1].note is None


TIMES = {
    '"2024-05-01T12:00:00+02:00"': datetime(2024, 5, 1, 10, tzinfo=UTC),
    '"2024-05-01T10:00:00Z"': datetime(2024, 5, 1, 10, tzinfo=UTC),
    '"2024-05-01 10:00:00"': datetime(2024, 5, 1, 10, tzinfo=UTC),
    '"2024-05-01"': datetime(2024, 5, 1, tzinfo=UTC),
    "1714557600": datetime(2024, 5, 1, 10, tzinfo=UTC),
    "1714557600.25": datetime(2024, 5, 1, 10, 0, 0, 250_000, tzinfo=UTC),
}


@pytest.mark.parametrize("text", TIMES)
def test_times_come_out_in_utc(text: str, read):
    found = read(bad.tar({"a.jpg": bad.jpeg(), "a.json": f'{{"captured_at": {text}}}'.encode()}))
    assert found[0].captured_at == TIMES[text]
    assert found[0].note is None


def test_lone_surrogates_in_a_sidecar_can_be_written_to_tables(read):
    (frame,) = read(bad.tar({"a.jpg": bad.jpeg(), "a.json": rb'{"camera": "cam\ud800"}'}))
    assert frame.camera == r"cam\ud800"
    pa.array([frame.camera])


def test_sidecars_can_be_left_out(tmp_path):
    for found in frames_in_each_format(tmp_path, bad.frames_with_sidecars(2), sidecars=False).values():
        assert [frame.camera for frame in found] == [None, None]


def test_null_images_are_errors_and_the_other_rows_are_read(read):
    image = bad.jpeg()
    plain = read(bad.parquet({"image": pa.array([image, None, b""], pa.binary())}), "parquet")
    assert [frame.error for frame in plain] == [None, "the row has no image (null)", "empty (0 bytes)"]
    structs = [{"bytes": image, "path": None}, {"bytes": None, "path": "s3://elsewhere/1.jpg"}, None]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    found = read(bad.parquet({"image": pa.array(structs, kind)}), "parquet")
    assert found[0].data == image
    assert found[1].error == "the row has no image bytes, only a path (s3://elsewhere/1.jpg)"
    assert found[2].error == "the row has no image (null)"


def test_an_empty_key_column_falls_back_to_the_number_of_the_row(read):
    content = bad.parquet({"image": [bad.jpeg(), bad.jpeg(), bad.jpeg()], "key": ["a", None, ""]})
    found = read(content, "parquet", key_column="key")
    assert [frame.key for frame in found] == ["a", "000000001", "000000002"]
    assert [frame.error for frame in found] == [None, None, None]
    assert found[1].note == "row 1: column 'key' is empty, the row's number is the key"


def test_encrypted_and_damaged_zip_entries_and_bombs_are_errors_of_their_frames(read):
    found = read(bad.encrypted_zip(bad.frames_with_sidecars(2)), "zip")
    assert [frame.error for frame in found] == ["encrypted in the zip; pack it without a password"] * 2
    assert all("encrypted" in frame.note for frame in found)
    content = bad.zipped(bad.frames(3))
    damaged = bad.with_flipped_byte(content, content.find(bad.jpeg(seed=1)) + 300)
    found = read(damaged, "zip")
    assert [frame.error is None for frame in found] == [True, False, True]
    assert found[1].error.startswith("damaged in the zip: Bad CRC-32")
    (bomb,) = read(bad.zip_bomb(), "zip")
    assert bomb.error.startswith("too large: 209715200 bytes")


def test_loose_images_that_are_gone_or_unreadable_are_errors_of_their_frames(tmp_path):
    files = bad.frames(3)
    shard = images_shard(tmp_path, files)
    (tmp_path / "frame-000.jpg").unlink()
    (tmp_path / "frame-001.jpg").unlink()
    (tmp_path / "frame-001.jpg").mkdir()
    found = list(read_frames(shard, InputSettings(), STORAGE))
    assert [frame.error is None for frame in found] == [False, False, True]
    assert "no longer there" in found[0].error


def test_member_names_survive_packing():
    names = ["b.jpg", "a b.jpg", "日本.png", "caf\udce9.jpg"]
    assert list_members(pack_members(names)) == sorted(names)
