"""Limits by camera hold whatever the form of the input, and every run names cameras that no frame has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actors.detect.roi import RoiSettings
from actors.gemini.camera_settings import GeminiCameras
from actors.storage.commit_record import Counts
from jobs.run.cameras import SeenCameras
from tests.servers.gemini_server import gemini_server
from tests.support import bad_inputs as bad
from tests.support import gemini_job, job, without_ray
from tests.support.job import Models

CHECK = "check the names, input.sidecars, input.camera_column and input.key_pattern"


def seen(*shards: Counts) -> SeenCameras:
    cameras = SeenCameras()
    for counts in shards:
        cameras.add(counts)
    return cameras


def zones(*cameras: str) -> RoiSettings:
    whole = {"mode": "exclude", "rectangle": [0, 0, 1, 1]}
    return RoiSettings.model_validate({"static": [{"camera": camera, **whole} for camera in cameras]})


def test_cameras_that_have_frames_are_no_warning():
    cameras = seen(Counts(frames=3, cameras={"door": 3}), Counts(frames=2, cameras={"till": 2}))
    assert cameras.warnings(zones("door", "*"), GeminiCameras(allow=("till",), deny=("door",))) == []


def test_cameras_of_no_frame_are_named_with_the_setting_and_the_cameras_that_there_are():
    cameras = seen(Counts(frames=5, cameras={"door": 3}), Counts(frames=2, cameras={}), Counts(frames=9))
    end = (
        "so it has no effect there (cameras found: door; 4 frames name no camera; the cameras of 9 other "
        f"frames are not in their commit records); {CHECK}"
    )
    assert cameras.warnings(zones("b", "a", "door"), GeminiCameras(deny=("till",))) == [
        f"roi.static: none of the 7 frames is of camera a, b, {end}",
        f"gemini.cameras.deny: none of the 7 frames is of camera till, {end}",
    ]


def test_without_frames_there_is_nothing_to_warn_of():
    assert seen().warnings(zones("till"), GeminiCameras()) == []
    assert seen(Counts(frames=4)).warnings(zones("till"), GeminiCameras()) == []


def test_only_a_few_of_many_cameras_are_listed():
    cameras = seen(Counts(frames=30, cameras={f"cam-{i:02d}": 1 for i in range(30)}))
    (warning,) = cameras.warnings(zones("till"), GeminiCameras())
    assert "cam-08, cam-09 and 20 more" in warning


def write_images(folder: Path) -> None:
    folder.mkdir(parents=True)
    for number, camera in enumerate(["till", "till", "door", "door"]):
        (folder / f"frame-{number}.jpg").write_bytes(bad.jpeg(320, 240, number))
        (folder / f"frame-{number}.json").write_text(json.dumps({"camera": camera}))


def warnings_in_log(output: Path) -> list[str]:
    lines = map(json.loads, (output / "processing.log").read_text().splitlines())
    return [line["message"] for line in lines if "cameras found" in line.get("message", "")]


@pytest.mark.timeout(600)
def test_a_glob_of_images_keeps_zones_and_cameras_and_every_run_names_the_missing_ones(
    models: Models, tmp_path: Path
):
    write_images(tmp_path / "in")
    output = tmp_path / "out"
    zone = "[{camera: door, mode: exclude, rectangle: [0, 0, 0.5, 1]}]"
    options = [*models.options(smolvlm=False), "--set", f"roi.static={zone}"]
    with gemini_server() as server:
        asked = gemini_job.options(
            server.base_url, requests_per_minute=1000, cameras={"deny": ["till", "back-office"]}
        )
        runs = [without_ray.annotate(f"{tmp_path}/in/*.jpg", output, *options, *asked) for _ in range(2)]
        journal = list(server.journal)
    cameras = {row["frame_key"]: row["camera"] for row in job.table(output, "frames").to_pylist()}
    assert sorted(cameras.values()) == ["door", "door", "till", "till"]
    persons = job.table(output, "persons").to_pylist()
    assert any(row["drop_reason"] == "inside_exclude_zone" for row in persons)
    kept_at_door = sum(row["kept"] and cameras[row["frame_key"]] == "door" for row in persons)
    kept_at_till = sum(row["kept"] and cameras[row["frame_key"]] == "till" for row in persons)
    assert kept_at_door
    assert kept_at_till
    assert sum(len(request.images) for request in journal) == kept_at_door
    assert gemini_job.outcomes(output) == {"ok": kept_at_door, "denied": kept_at_till}
    for run in runs:
        said = " ".join(run.stdout.split())
        assert "warning: gemini.cameras.deny: none of the 4 frames is of camera back-office" in said
        assert "(cameras found: door, till)" in said
    assert len(warnings_in_log(output)) >= 1
    assert len(job.progress(output)["warnings"]) == 1
