"""Frames of every format get camera and time from their paths, unless a sidecar or a column gives them."""

from __future__ import annotations

import io
import json
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from actors.read.frames import read_frames
from actors.read.listing import list_shards
from actors.read.settings import InputSettings
from actors.records import Frame
from tests.support import bad_inputs as bad
from tests.support.shards_on_disk import STORAGE

PATTERN = "{camera}/{captured_at:%Y%m%d_%H%M%S}*.jpg"
FIRST, SECOND = "20240501_100000", "20240501_100005"
AT = [datetime(2024, 5, 1, 8, 0, second, tzinfo=UTC) for second in (0, 5)]


def read(source: Path, pattern: str | None = PATTERN, **options) -> list[Frame]:
    settings = InputSettings(uri=str(source), key_pattern=pattern, timezone="Europe/Berlin", **options)
    return [
        frame for shard in list_shards(settings, STORAGE) for frame in read_frames(shard, settings, STORAGE)
    ]


def zipped(files: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return sink.getvalue()


def write_images(folder: Path) -> None:
    for number, name in enumerate((FIRST, SECOND)):
        (folder / "till").mkdir(parents=True, exist_ok=True)
        (folder / f"till/{name}-x.jpg").write_bytes(bad.jpeg(seed=number))


def in_folder(prefix: str) -> dict[str, bytes]:
    return {f"{prefix}{name}-x.jpg": bad.jpeg(seed=n) for n, name in enumerate((FIRST, SECOND))}


def write_parquet(path: Path) -> None:
    keys = [f"till/{name}.jpg" for name in (FIRST, SECOND)]
    path.write_bytes(bad.parquet({"image": [bad.jpeg(), bad.jpeg()], "key": keys}))


WRITE = {
    "images": write_images,
    "tar": lambda folder: (folder / "a.tar").write_bytes(bad.tar(in_folder("till/"))),
    "tar of a folder": lambda folder: (folder / "till.tar").write_bytes(bad.tar(in_folder("./"))),
    "gzipped tar": lambda folder: (folder / "till.tar.gz").write_bytes(bad.tar_gz(in_folder(""))),
    "zip": lambda folder: (folder / "a.zip").write_bytes(zipped(in_folder("till/"))),
    "zip of a folder": lambda folder: (folder / "till.zip").write_bytes(zipped(in_folder(""))),
    "parquet": lambda folder: write_parquet(folder / "a.parquet"),
}


@pytest.mark.parametrize("kind", WRITE)
def test_every_format_gives_camera_and_time_in_utc(kind: str, tmp_path):
    WRITE[kind](tmp_path)
    options = {"key_column": "key"} if kind == "parquet" else {}
    found = read(tmp_path, **options)
    assert [(f.camera, f.captured_at, f.note) for f in found] == [("till", at, None) for at in AT]
    assert all(f.is_key_matched and f.data is not None for f in found)
    plain = read(tmp_path, pattern=None, **options)
    assert [(f.camera, f.captured_at, f.is_key_matched) for f in plain] == [(None, None, None)] * 2


def test_a_sidecar_wins_and_a_key_fills_what_it_lacks(tmp_path):
    files = in_folder("till/") | {"till/20240501_100010.jpg": bad.jpeg(seed=3), "odd.jpg": bad.jpeg(seed=4)}
    files[f"till/{FIRST}-x.json"] = json.dumps({"camera": "door"}).encode()
    files[f"till/{SECOND}-x.json"] = json.dumps(
        {"camera": "door", "captured_at": "2020-01-01T00:00:00Z"}
    ).encode()
    files["till/20240501_100010.json"] = b"no json"
    files["odd.json"] = json.dumps({"camera": "door", "captured_at": 0}).encode()
    (tmp_path / "a.zip").write_bytes(zipped(files))
    first, second, third, odd = read(tmp_path)
    assert (first.camera, first.captured_at, first.is_key_matched) == ("door", AT[0], True)
    assert (second.camera, second.captured_at.year, second.is_key_matched) == ("door", 2020, None)
    assert (third.camera, third.captured_at.second) == ("till", 10)
    assert "not JSON" in third.note
    # Nothing is missing, so the key needn't match.
    assert (odd.camera, odd.is_key_matched, odd.note) == ("door", None, None)


def test_columns_win_and_a_key_fills_what_they_lack(tmp_path):
    columns = {
        "image": [bad.jpeg()] * 3,
        "key": [f"till/{FIRST}.jpg", f"till/{SECOND}.jpg", "odd"],
        "camera": ["door", None, None],
        "captured_at": [None, datetime(2020, 1, 1, 12, tzinfo=UTC), None],
    }
    (tmp_path / "a.parquet").write_bytes(bad.parquet(columns))
    first, second, odd = read(tmp_path, key_column="key")
    assert (first.camera, first.captured_at) == ("door", AT[0])
    assert (second.camera, second.captured_at.year) == ("till", 2020)
    assert (odd.camera, odd.captured_at, odd.is_key_matched) == (None, None, False)
    assert odd.note == "its key doesn't match input.key_pattern"


def test_a_pattern_may_name_the_extension_of_the_shard(tmp_path):
    (tmp_path / "till.tar.gz").write_bytes(bad.tar_gz(in_folder("")))
    found = read(tmp_path, pattern="{camera}.tar.gz/{captured_at:%Y%m%d_%H%M%S}*")
    assert [(f.camera, f.captured_at) for f in found] == [("till", at) for at in AT]


def test_a_broken_frame_has_camera_and_time_too(tmp_path):
    (tmp_path / "a.tar").write_bytes(bad.tar({f"till/{FIRST}.jpg": b""}))
    (frame,) = read(tmp_path)
    assert (frame.camera, frame.captured_at, frame.error) == ("till", AT[0], "empty (0 bytes)")


def test_a_pattern_of_one_fact_asks_for_no_more(tmp_path):
    write_images(tmp_path)
    found = read(tmp_path, pattern="{camera}/*")
    assert [(f.camera, f.captured_at, f.is_key_matched) for f in found] == [("till", None, True)] * 2


def test_local_times_of_sidecars_are_of_the_configured_zone_too(tmp_path):
    files = {"a.jpg": bad.jpeg(), "b.jpg": bad.jpeg(), "c.jpg": bad.jpeg()}
    times = {"a": "2024-05-01T10:00:00", "b": "2024-10-27T02:30:00", "c": "2024-05-01T10:00:00+00:00"}
    files |= {f"{key}.json": json.dumps({"captured_at": time}).encode() for key, time in times.items()}
    (tmp_path / "a.zip").write_bytes(zipped(files))
    local, twice, own = read(tmp_path, pattern=None)
    assert local.captured_at == AT[0]
    assert twice.captured_at == datetime(2024, 10, 27, 0, 30, tzinfo=UTC)
    assert "occurs twice in Europe/Berlin" in twice.note
    assert own.captured_at == datetime(2024, 5, 1, 10, tzinfo=UTC)
