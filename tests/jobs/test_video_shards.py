"""Videos are cut into shards: right frames with camera and time, resumable, and broken files are recorded."""

from __future__ import annotations

import io
import json
import tarfile
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from actors.errors import OutputError, ShardError
from actors.read.frames import read_frames
from actors.read.listing import list_shards
from actors.read.settings import InputSettings
from actors.records import Frame
from actors.storage.object_store import ObjectStore
from actors.storage.settings import StorageSettings
from jobs.run.cutting import CutSummary, Picking, cut_videos
from jobs.run.video import Video
from tests.support import bad_inputs as bad
from tests.support import job, videos
from tests.support.in_process import run_in_process

STORAGE = StorageSettings(retries=1, timeout_s=10)
EACH_SECOND = Picking(1)
PATTERN = "{camera}/{captured_at:%Y%m%d_%H%M%S}.*"
START = datetime(2024, 5, 1, 8, tzinfo=UTC)
SHOT = (0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2)
"""Three pictures of a second each, at four frames a second."""


def cut(source: object, output: object, picking: Picking = EACH_SECOND, **options) -> CutSummary:
    sizes = {name: options.pop(name) for name in ("frames_per_shard", "max_shard_bytes") if name in options}
    return cut_videos(str(source), str(output), InputSettings(**options), STORAGE, picking, **sizes)


def frames_in(output: object) -> list[Frame]:
    settings = InputSettings(uri=str(output))
    return [
        frame for shard in list_shards(settings, STORAGE) for frame in read_frames(shard, settings, STORAGE)
    ]


def seed_of(picture: np.ndarray) -> int:
    """Return the seed whose picture is the most similar."""
    wanted = [bad.pixels(videos.WIDTH, videos.HEIGHT, seed).astype(int) for seed in range(8)]
    return int(np.argmin([np.abs(picture.astype(int) - one).mean() for one in wanted]))


def seeds_of(found: list[Frame]) -> list[int]:
    return [seed_of(cv2.imdecode(np.frombuffer(f.data, np.uint8), cv2.IMREAD_COLOR)) for f in found]


def picked(content: bytes, every_s: float) -> list[tuple[float, int]]:
    with Video(io.BytesIO(content)) as opened:
        return [(round(offset, 3), seed_of(picture)) for offset, picture in opened.pick_every(every_s)]


@pytest.fixture
def archive(tmp_path) -> Path:
    folder = tmp_path / "videos"
    (folder / "till").mkdir(parents=True)
    (folder / "till" / "20240501_100000.mp4").write_bytes(videos.video(SHOT))
    tagged = videos.video(
        SHOT[:6], kind="matroska", tags={"creation_time": "2024-05-01T08:00:00Z", "camera": "door"}
    )
    (folder / "till" / "other.mkv").write_bytes(tagged)
    (folder / "notes.txt").write_bytes(b"not a video")
    return folder


def test_frames_have_the_camera_and_time_of_the_path_or_of_the_tags(archive: Path, tmp_path):
    done = cut(archive, tmp_path / "out", key_pattern=PATTERN, timezone="Europe/Berlin")
    assert (done.videos_cut, done.videos_skipped, done.frames, done.tars) == (2, 0, 5, 2)
    assert (done.broken, done.without_camera, done.without_time) == ([], 0, 0)
    found = frames_in(tmp_path / "out")
    assert [frame.camera for frame in found] == ["till"] * 3 + ["door"] * 2
    assert [frame.captured_at for frame in found] == [START + timedelta(seconds=s) for s in (0, 1, 2, 0, 1)]
    assert seeds_of(found) == [0, 1, 2, 0, 1]
    assert [frame.key for frame in found][:2] == [
        "till/20240501_100000.mp4/000000000-000000",
        "till/20240501_100000.mp4/000001000-000001",
    ]
    assert all(frame.error is None and frame.note is None for frame in found)


@pytest.mark.parametrize(
    ("every_s", "offsets"),
    [(0.5, [0, 0.5, 1, 1.5, 2, 2.5]), (0.7, [0, 0.75, 1.5, 2.25]), (5, [0]), (0.01, None)],
)
def test_the_first_frame_of_each_interval_is_picked(every_s: float, offsets: list[float] | None):
    offsets = offsets if offsets is not None else [number / 4 for number in range(12)]
    assert picked(videos.video(SHOT), every_s) == [(offset, SHOT[int(offset * 4)]) for offset in offsets]


@pytest.mark.parametrize(
    ("kind", "codec"), [("avi", "mpeg4"), ("mpegts", "libx264"), ("h264", "libx264"), ("matroska", "mjpeg")]
)
def test_other_containers_give_the_same_frames(kind: str, codec: str):
    found = picked(videos.video(SHOT, kind=kind, codec=codec), 1)
    assert [seed for _, seed in found] == [0, 1, 2]
    assert [offset for offset, _ in found] == [0, 1, 2]


def test_frames_are_picked_where_the_scene_changes(archive: Path, tmp_path):
    done = cut(archive / "till" / "20240501_100000.mp4", tmp_path / "out", Picking(scene_change=0.1))
    found = frames_in(tmp_path / "out")
    assert seeds_of(found) == [0, 1, 2]
    assert [frame.key.partition("/")[2] for frame in found] == [
        "000000000-000000",
        "000001000-000001",
        "000002000-000002",
    ]
    assert (done.without_camera, done.without_time) == (1, 1)
    still = cut(archive, tmp_path / "still", Picking(scene_change=1))
    assert (still.videos_cut, still.frames) == (2, 2)


def test_a_rotated_video_is_cut_as_it_is_displayed():
    with Video(io.BytesIO(videos.turned(videos.video([3])))) as opened:
        ((_, picture),) = opened.pick_every(1)
    upright = np.rot90(picture)
    assert picture.shape == (videos.WIDTH, videos.HEIGHT, 3)
    assert seed_of(upright) == 3


def test_pixels_that_are_not_square_are_made_so():
    with Video(io.BytesIO(videos.video([3], pixel_shape=Fraction(3, 2)))) as opened:
        ((_, picture),) = opened.pick_every(1)
    assert picture.shape == (videos.HEIGHT, videos.WIDTH * 3 // 2, 3)
    assert seed_of(cv2.resize(picture, (videos.WIDTH, videos.HEIGHT))) == 3


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"creation_time": "2024-05-01T08:00:00.000000Z", "title": "till"}, ("till", START)),
        ({"creation_time": "1970-01-01T00:00:00Z"}, (None, None)),
        ({"creation_time": "yesterday", "TITLE": " "}, (None, None)),
        (
            {"com.apple.quicktime.creationdate": "2024-05-01T10:00:00", "title": "x", "CAMERA": "till"},
            ("till", START),
        ),
        ({"com.apple.quicktime.creationdate": "2024-05-01T10:00:00+0200"}, (None, START)),
    ],
)
def test_tags_of_the_file_say_camera_and_start(tags: dict[str, str], expected: tuple):
    with Video(io.BytesIO(videos.video([0], kind="matroska", tags=tags))) as opened:
        found = opened.tags("Europe/Berlin")
    assert (found.camera, found.captured_at) == expected


def test_a_rerun_cuts_only_what_is_new_changed_or_unfinished(archive: Path, tmp_path):
    output = tmp_path / "out"
    first = cut(archive, output, frames_per_shard=2)
    assert (first.videos_cut, first.tars) == (2, 3)
    before = {path.name: path.stat().st_mtime_ns for path in output.glob("*.tar")}
    assert [name for name in sorted(before) if "20240501" in name][1].endswith("-00001.tar")
    again = cut(archive, output, frames_per_shard=2)
    assert (again.videos_cut, again.videos_skipped, again.frames, again.tars) == (0, 2, 5, 3)
    assert {path.name: path.stat().st_mtime_ns for path in output.glob("*.tar")} == before
    # A killed run leaves tars without the file that proves them complete.
    content = {path.name: path.read_bytes() for path in output.glob("*.tar")}
    for manifest in (output / "_cut").glob("*mp4*"):
        manifest.unlink()
    sorted(output.glob("*mkv*.tar"))[0].write_bytes(b"half")
    again = cut(archive, output, frames_per_shard=2)
    assert (again.videos_cut, again.videos_skipped) == (2, 0)
    assert {path.name: path.read_bytes() for path in output.glob("*.tar")} == content
    # A video that has become shorter leaves no tar behind that would count its frames twice.
    (archive / "till" / "20240501_100000.mp4").write_bytes(videos.video(SHOT[:4]))
    again = cut(archive, output, frames_per_shard=2)
    assert (again.videos_cut, again.videos_skipped, again.frames, again.tars) == (1, 1, 3, 2)
    assert len(list(output.glob("*.tar"))) == 2
    # Other frames are wanted.
    assert cut(archive, output, Picking(0.5), frames_per_shard=2).videos_cut == 2


def test_a_killed_run_is_finished_by_the_next_one_with_the_same_tars(archive: Path, tmp_path):
    for number in range(20):
        (archive / f"{number:02d}.mp4").write_bytes(videos.video(SHOT))
    output = tmp_path / "out"
    process = job.start("shards", "--videos", archive, "--output", output, "--every", 1)
    assert job.wait_for(lambda: list(output.glob("_cut/*.json")), process)
    process.kill()
    job.finish(process)
    survived = len(list(output.glob("_cut/*.json")))
    done = cut(archive, output)
    assert (done.videos_skipped, done.videos_cut) == (survived, 22 - survived)
    cut(archive, tmp_path / "whole")
    assert job.bytes_of(output, ".") == job.bytes_of(tmp_path / "whole", ".")


def test_a_video_of_the_same_name_from_another_folder_replaces_nothing(archive: Path, tmp_path):
    cut(archive / "till", tmp_path / "out")
    content = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.tar")}
    (archive / "door").mkdir()
    (archive / "door" / "other.mkv").write_bytes(videos.video(SHOT[4:]))
    with pytest.raises(OutputError, match=r"has the frames of another other\.mkv.*use one output per folder"):
        cut(archive / "door", tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.tar")} == content
    # The same file in another place is the same video.
    (archive / "till").rename(archive / "moved")
    assert cut(archive / "moved", tmp_path / "out").videos_skipped == 2


def test_tars_are_divided_by_bytes_too(archive: Path, tmp_path):
    assert cut(archive / "till", tmp_path / "out", max_shard_bytes=1).tars == 5
    assert len(frames_in(tmp_path / "out")) == 5


def test_broken_videos_are_recorded_with_the_reason_and_the_others_cut(archive: Path, tmp_path):
    whole = videos.video(range(8), fps=1, options={"movflags": "faststart"})
    broken = {
        "a.mp4": b"",
        "b.mp4": b"no video" * 100,
        "c.mp4": videos.video(SHOT)[:200],
        "d.mp4": whole[: len(whole) * 2 // 3],
        "e.mp4": videos.sound(),
    }
    for name, content in broken.items():
        (archive / name).write_bytes(content)
    done = cut(archive, tmp_path / "out")
    assert done.videos_cut == 7
    reasons = dict(done.broken)
    assert reasons.keys() == broken.keys()
    assert reasons["a.mp4"] == "empty (0 bytes)"
    for name in ("b.mp4", "c.mp4"):
        assert reasons[name].startswith("not a video, or damaged: Invalid data found")
    assert "of 8.0 s" in reasons["d.mp4"]
    assert reasons["e.mp4"] == "has no pictures, only other streams"
    # The intact start of a truncated video is kept, and it is not tried again until it changes.
    (recorded,) = (json.loads(p.read_text()) for p in (tmp_path / "out" / "_cut").glob("d.mp4.json"))
    assert recorded["error"] == reasons["d.mp4"]
    found = [frame for frame in frames_in(tmp_path / "out") if frame.key.startswith("d.mp4")]
    assert seeds_of(found) == list(range(recorded["frames"]))
    assert 0 < recorded["frames"] < 8
    again = cut(archive, tmp_path / "out")
    assert (again.videos_cut, again.videos_skipped) == (0, 7)
    assert dict(again.broken) == reasons


def test_damage_within_a_video_costs_the_frames_that_it_hits():
    content = bytearray(videos.video(range(8), fps=1, kind="avi", codec="mjpeg"))
    start_of_image = b"\xff\xd8"
    at = content.index(start_of_image, content.index(start_of_image) + 2)
    content[at : at + 400] = bytes(400)
    with Video(io.BytesIO(bytes(content))) as opened:
        found = [seed_of(picture) for _, picture in opened.pick_every(1)]
        trouble = opened.trouble()
    assert found == [0, *range(2, 8)]
    assert "1 frames or packets are damaged and left out" in trouble


def test_a_store_that_fails_is_no_broken_video():
    content = videos.video(range(8), fps=1, kind="avi", codec="mjpeg") + bytes(200_000)
    with pytest.raises(ConnectionResetError), Video(videos.FailingFile(content, 1000)) as opened:
        list(opened.pick_every(1))


def test_a_failure_leaves_no_half_tar_and_a_rerun_finishes(archive: Path, tmp_path, monkeypatch):
    upload = ObjectStore.upload

    def fail_on_mkv(store: ObjectStore, path: str, source: Path) -> None:
        if "mkv" in path:
            raise OSError(28, "No space left on device")
        upload(store, path, source)

    monkeypatch.setattr(ObjectStore, "upload", fail_on_mkv)
    with pytest.raises(OutputError, match=r"No space left.*1 video cut before"):
        cut(archive, tmp_path / "out")
    monkeypatch.undo()
    assert len(list((tmp_path / "out").glob("*.tar"))) == 1
    done = cut(archive, tmp_path / "out")
    assert (done.videos_cut, done.videos_skipped) == (1, 1)


def test_buckets_are_cut_like_folders(archive: Path, bucket: str, tmp_path):
    source = ObjectStore(f"{bucket}/videos", STORAGE)
    for path in archive.rglob("*.m*"):
        source.write(path.relative_to(archive).as_posix(), path.read_bytes())
    cut(archive, tmp_path / "out")
    assert cut(source.uri, f"{bucket}/cut").frames == 5
    target = ObjectStore(f"{bucket}/cut", STORAGE)
    names = [path.name for path in (tmp_path / "out").glob("*.tar")]
    assert [target.read(name) for name in names] == [(tmp_path / "out" / n).read_bytes() for n in names]
    assert cut(source.uri, f"{bucket}/cut").videos_skipped == 2


def test_the_command_says_what_it_cut_and_ends_with_1_if_a_video_is_broken(
    archive, tmp_path, monkeypatch, capsys
):
    arguments = ["shards", "--videos", archive, "--output", tmp_path / "out", "--every", 1]
    assert run_in_process(monkeypatch, *arguments) == 0
    said, progress = capsys.readouterr()
    assert progress.splitlines() == ["till/20240501_100000.mp4: 3 frames", "till/other.mkv: 2 frames"]
    assert f"5 frames of 2 videos in 2 shards under {tmp_path / 'out'} (2 videos cut now, 0 broken)" in said
    assert "1 video without a camera and 1 without a start time" in said
    (archive / "b.mp4").write_bytes(b"no video")
    pattern = ["--set", f"input.key_pattern={PATTERN}"]
    assert run_in_process(monkeypatch, *arguments, *pattern) == 1
    said = capsys.readouterr().out
    assert "broken: b.mp4: not a video, or damaged" in said
    with tarfile.open(next((tmp_path / "out").glob("*mp4*.tar"))) as tar:
        sidecar = json.load(tar.extractfile(tar.getmembers()[1]))
    assert sidecar == {
        "video": "till/20240501_100000.mp4",
        "offset_s": 0.0,
        "camera": "till",
        "captured_at": "2024-05-01T10:00:00.000+00:00",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "pass either --images or --videos"),
        (["--images", "a", "--videos", "b"], "pass either --images or --videos"),
        (["--images", "a", "--every", "2"], "leave them out with --images"),
        (["--videos", "a", "--every", "2", "--scene-change", "0.1"], "exclude each other"),
        (["--videos", "{empty}"], "holds no videos (.264 .3gp"),
        (
            ["--videos", "{archive}", "--set", "input.key_pattern=x{{camera}}/*"],
            "matches none of 2 videos, of which",
        ),
    ],
)
def test_wrong_options_are_said(arguments, message, archive, tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    given = [argument.format(empty=tmp_path / "empty", archive=archive) for argument in arguments]
    assert run_in_process(monkeypatch, "shards", "--output", tmp_path / "out", *given) == 2
    assert message in capsys.readouterr().err


def test_a_run_on_a_folder_of_videos_says_how_to_cut_them(archive, tmp_path, monkeypatch, capsys):
    arguments = ["annotate", "--input", archive, "--output", tmp_path / "out"]
    assert run_in_process(monkeypatch, *arguments) == 2
    said = capsys.readouterr().err
    assert f"{archive}: holds videos (.mkv x1, .mp4 x1), which a run doesn't read" in said
    assert f"shopframe shards --videos {archive} --output SHARDS, and pass SHARDS as --input" in said


def test_a_file_that_is_no_video_is_a_fault_of_the_input():
    with pytest.raises(ShardError, match="not a video"):
        Video(io.BytesIO(b"x"))
