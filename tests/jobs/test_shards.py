"""Packing images into tars: none is lost, original paths are kept, and the bytes are reproducible."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from actors.errors import InputError, OutputError
from actors.read.frames import read_frames
from actors.read.listing import list_shards
from actors.read.settings import InputSettings
from actors.records import Frame
from actors.storage.object_store import ObjectStore
from actors.storage.settings import StorageSettings
from jobs.run.packing import pack_images
from tests.support import bad_inputs as bad

STORAGE = StorageSettings(retries=1, timeout_s=10)


@pytest.fixture
def images(tmp_path) -> Path:
    folder = tmp_path / "images"
    files = bad.frames_with_sidecars(5)
    files |= {f"cam-2/{name}": content for name, content in bad.frames(5).items()}
    files["notes.txt"] = b"not an image"
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def read_all(uri: object) -> list[Frame]:
    settings = InputSettings(uri=str(uri))
    return [
        frame for shard in list_shards(settings, STORAGE) for frame in read_frames(shard, settings, STORAGE)
    ]


def test_packed_frames_are_the_loose_ones_in_tars_of_the_wanted_size(images: Path, tmp_path):
    output = tmp_path / "out"
    summary = pack_images(str(images), str(output), STORAGE, frames_per_shard=4)
    tars = sorted(output.glob("*.tar"))
    assert [path.name for path in tars] == ["shard-00000.tar", "shard-00001.tar", "shard-00002.tar"]
    assert (summary.shards_written, summary.shards_skipped, summary.frames) == (3, 0, 10)
    assert summary.size_bytes == sum(path.stat().st_size for path in tars)
    assert summary.left_out == []
    found = read_all(output)
    loose = read_all(images)
    prefix = ["" if index < 5 else "cam-2/" for index in range(10)]
    assert [frame.key for frame in found] == [p + frame.key for p, frame in zip(prefix, loose, strict=True)]
    for packed, frame in zip(found, loose, strict=True):
        assert (packed.data, packed.camera, packed.captured_at) == (
            frame.data,
            frame.camera,
            frame.captured_at,
        )
        assert packed.error is None
        assert packed.note is None


def test_tars_are_divided_by_bytes_too(images: Path, tmp_path):
    size = len(bad.jpeg())
    summary = pack_images(str(images), str(tmp_path / "out"), STORAGE, max_shard_bytes=int(size * 2.5))
    assert summary.shards_written == 5
    assert len(read_all(tmp_path / "out")) == 10


def test_the_same_images_give_the_same_bytes(images: Path, tmp_path):
    for name in ("one", "two"):
        pack_images(str(images), str(tmp_path / name), STORAGE, frames_per_shard=4)
    for path in sorted((tmp_path / "one").glob("*.tar")):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
        with tarfile.open(path) as archive:
            assert {(m.mtime, m.uid, m.gid, m.uname) for m in archive} == {(0, 0, 0, "")}


def test_a_rerun_writes_only_what_is_missing_or_changed(images: Path, tmp_path):
    output = tmp_path / "out"
    pack_images(str(images), str(output), STORAGE, frames_per_shard=4)
    before = {path.name: path.stat().st_mtime_ns for path in output.glob("*.tar")}
    again = pack_images(str(images), str(output), STORAGE, frames_per_shard=4)
    assert (again.shards_written, again.shards_skipped, again.frames) == (0, 3, 10)
    assert {path.name: path.stat().st_mtime_ns for path in output.glob("*.tar")} == before
    (output / "shard-00001.tar").unlink()
    (output / "shard-00000.tar").write_bytes(b"half")
    (images / "cam-2" / "frame-004.jpg").write_bytes(bad.jpeg(seed=99, width=100))
    again = pack_images(str(images), str(output), STORAGE, frames_per_shard=4)
    assert (again.shards_written, again.shards_skipped, again.frames) == (3, 0, 10)
    assert read_all(output)[-1].data == bad.jpeg(seed=99, width=100)


def test_a_failure_leaves_no_half_tar_and_a_rerun_finishes(images: Path, tmp_path, monkeypatch):
    output = tmp_path / "out"
    upload = ObjectStore.upload

    def fail_on_second(store: ObjectStore, path: str, source: Path) -> None:
        if path == "shard-00001.tar":
            raise OSError(28, "No space left on device")
        upload(store, path, source)

    monkeypatch.setattr(ObjectStore, "upload", fail_on_second)
    with pytest.raises(OutputError, match="No space left"):
        pack_images(str(images), str(output), STORAGE, frames_per_shard=4)
    assert [path.name for path in output.glob("*.tar")] == ["shard-00000.tar"]
    monkeypatch.undo()
    summary = pack_images(str(images), str(output), STORAGE, frames_per_shard=4)
    assert (summary.shards_written, summary.shards_skipped) == (2, 1)
    assert len(read_all(output)) == 10


def test_dots_and_equal_stems_get_keys_of_their_own_and_the_path_is_kept(tmp_path):
    images = tmp_path / "images"
    names = ["cam.1.jpg", "cam.2.jpg", "cam_1.jpg", "a.jpg", "a.png", "v1.0/x.jpg", "日本 1.jpg"]
    for name in names:
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        (images / name).write_bytes(bad.jpeg())
    (images / "cam.1.json").write_text(json.dumps({"camera": "front", "extra": [1]}))
    pack_images(str(images), str(tmp_path / "out"), STORAGE)
    found = {frame.key: frame for frame in read_all(tmp_path / "out")}
    assert len(found) == 7
    assert all(frame.error is None for frame in found.values())
    assert {"cam_1", "cam_2", "a", "v1.0/x", "日本 1"} < found.keys()
    assert found["cam_1"].camera == "front"
    with tarfile.open(tmp_path / "out" / "shard-00000.tar") as archive:
        sidecars = {m.name: json.load(archive.extractfile(m)) for m in archive if m.name.endswith(".json")}
    assert sidecars["cam_1.json"] == {"camera": "front", "extra": [1], "original_path": "cam.1.jpg"}
    assert {document["original_path"] for document in sidecars.values()} == {
        "cam.1.jpg",
        "cam.2.jpg",
        "cam_1.jpg",
        "a.png",
    }


def test_images_that_are_too_large_or_went_away_are_left_out_and_reported(
    images: Path, tmp_path, monkeypatch
):
    (images / "large.jpg").write_bytes(bytes(50_000))
    listed = ObjectStore.list

    def list_then_delete(store: ObjectStore, prefix: str = ""):
        yield from listed(store, prefix)
        (images / "frame-001.jpg").unlink(missing_ok=True)

    monkeypatch.setattr(ObjectStore, "list", list_then_delete)
    summary = pack_images(str(images), str(tmp_path / "out"), STORAGE, max_image_bytes=49_999)
    assert summary.frames == 9
    assert [path for path, _ in summary.left_out] == ["frame-001.jpg", "large.jpg"]
    assert summary.left_out[1][1].startswith("too large: 50000 bytes")
    monkeypatch.undo()
    assert len(read_all(tmp_path / "out")) == 9


def test_odd_images_are_packed_as_they_are(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    (images / "empty.jpg").write_bytes(b"")
    (images / "text.png").write_bytes(b"no image")
    (images / "text.json").write_bytes(b"no json")
    summary = pack_images(str(images), str(tmp_path / "out"), STORAGE)
    assert summary.frames == 2
    found = read_all(tmp_path / "out")
    assert [frame.error for frame in found] == ["empty (0 bytes)", None]
    assert "not JSON" in found[1].note


def test_shards_left_from_a_larger_packing_are_refused(images: Path, tmp_path):
    output = tmp_path / "out"
    pack_images(str(images), str(output), STORAGE, frames_per_shard=2)
    with pytest.raises(OutputError, match=r"3 shards of an earlier packing.*shard-00002\.tar to shard-00004"):
        pack_images(str(images), str(output), STORAGE, frames_per_shard=5)


def test_no_images_and_no_input_are_said(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "gone"):
        with pytest.raises(InputError, match="holds no images; check --images"):
            pack_images(str(tmp_path / name), str(tmp_path / "out"), STORAGE)
    assert not (tmp_path / "out").exists()


def test_buckets_are_packed_like_folders(images: Path, bucket: str, tmp_path):
    source = ObjectStore(f"{bucket}/images", STORAGE)
    for path in images.rglob("*"):
        if path.is_file():
            source.write(path.relative_to(images).as_posix(), path.read_bytes())
    pack_images(str(images), str(tmp_path / "out"), STORAGE, frames_per_shard=4)
    summary = pack_images(source.uri, f"{bucket}/packed", STORAGE, frames_per_shard=4)
    assert (summary.shards_written, summary.frames) == (3, 10)
    packed = ObjectStore(f"{bucket}/packed", STORAGE)
    for path in (tmp_path / "out").glob("*.tar"):
        assert packed.read(path.name) == path.read_bytes()
    again = pack_images(source.uri, f"{bucket}/packed", STORAGE, frames_per_shard=4)
    assert (again.shards_written, again.shards_skipped) == (0, 3)
    assert [frame.key for frame in read_all(packed.uri)] == [
        frame.key for frame in read_all(tmp_path / "out")
    ]


def test_wrong_credentials_are_said(bucket: str, images: Path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-wrong")
    ObjectStore(bucket, STORAGE).fs.clear_instance_cache()
    with pytest.raises(InputError, match="refused the credentials"):
        pack_images(bucket, str(images.parent / "out"), STORAGE)
    with pytest.raises(OutputError, match="refused the credentials"):
        pack_images(str(images), bucket, STORAGE)
