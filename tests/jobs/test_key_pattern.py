"""Camera and time from keys: shown before a run, counted after it, and corrected without new answers."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from actors.read.settings import InputSettings
from actors.records import Frame
from jobs.run.changed_settings import Change, changes_since
from jobs.run.key_sample import SampledKey, key_lines
from jobs.run.run_record import PlanCounts, RunRecord
from jobs.settings import Settings, load_settings
from tests.servers.gemini_server import gemini_server
from tests.support import bad_inputs as bad
from tests.support import gemini_job, job, without_ray
from tests.support.in_process import run_in_process
from tests.support.job import Models

PATTERN = "{camera}/{captured_at:%Y%m%d_%H%M%S}*"


def write_frames(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        path = folder / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bad.jpeg(320, 240, number))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "input.key_pattern={cam}/*",
            "--set input.key_pattern: {cam} is unknown; the fields are {camera} and",
        ),
        ("input.key_pattern={camera}", "input.uri: missing"),
        ("input.key_pattern=*.jpg", "has neither {camera} nor {captured_at"),
        ("input.timezone=Berlin", "no time zone is called 'Berlin'; did you mean Europe/Berlin?"),
        ("input.timezone=Europe/Berlim", "did you mean Europe/Berlin?"),
        ("input.timezone=qqq", "write an IANA name, such as Europe/Berlin"),
        ("input.timezone=Europe", "no time zone is called 'Europe'; "),
        ("input.timezone=../UTC", "no time zone is called '../UTC'; "),
        ("input.timezone=''", "no time zone is called ''; write an IANA name"),
    ],
)
def test_a_wrong_pattern_or_zone_is_a_configuration_error(setting, message, monkeypatch, capsys):
    assert run_in_process(monkeypatch, "annotate", "--set", setting) == 2
    assert message in capsys.readouterr().err


def test_without_the_settings_outputs_of_earlier_versions_are_not_done_again():
    before = {
        "max_image_bytes": 64 * 2**20,
        "max_image_pixels": 50_000_000,
        "frames_per_shard": 256,
        "sidecars": True,
        "image_column": "image",
        "key_column": None,
        "camera_column": None,
        "captured_at_column": None,
    }
    assert InputSettings(uri="in", timezone="UTC").fingerprint_content() == before
    changed = InputSettings(key_pattern="{camera}/*", timezone="Asia/Tokyo").fingerprint_content()
    assert changed == before | {"key_pattern": "{camera}/*", "timezone": "Asia/Tokyo"}


def test_an_output_of_an_earlier_version_is_not_said_to_have_changed_its_time_zone():
    config = Settings().as_dict()
    del config["input"]["timezone"], config["input"]["key_pattern"]
    before = RunRecord(config=config, fingerprints={"detect": "a"}, plan=PlanCounts(shards=1))
    settings = load_settings((), ["roi.max_persons=2"]).settings
    now = RunRecord(config=settings.as_dict(), fingerprints={"detect": "b"}, plan=PlanCounts(shards=1))
    assert changes_since(before, now) == {"detect": [Change("roi.max_persons", None, 2)]}


@pytest.mark.slow
def test_a_dry_run_prints_ten_keys_with_what_was_read_from_them_first(models: Models, tmp_path):
    names = [f"till/20240501_1000{second:02d}" for second in range(6)]
    write_frames(tmp_path / "in", *names, *(f"door/{n}" for n in range(5)), "door/20240501_120000")
    (tmp_path / "in" / "door" / "0.json").write_text(json.dumps({"camera": "DOOR", "captured_at": 0}))
    given = ["--input", tmp_path / "in", "--output", tmp_path / "out", *models.options(smolvlm=False)]
    zone = ["--set", "input.timezone=Europe/Berlin"]
    pattern = ["--set", f"input.key_pattern={PATTERN}"]
    done = without_ray.command("annotate", "--dry-run", *given, *pattern, *zone)
    first, *keys = done.stdout.splitlines()[:11]
    assert first == "10 keys, and the camera and time of each:"
    assert keys[0].endswith(
        "in/door/0.jpg: camera DOOR (sidecar or column); "
        "time 1970-01-01 00:00:00 UTC = 01:00:00 Europe/Berlin (sidecar or column)"
    )
    assert keys[1].endswith("in/door/1.jpg: no camera; no time; its key doesn't match input.key_pattern")
    assert keys[5].endswith(
        "in/till/20240501_100000.jpg: camera till (key); "
        "time 2024-05-01 08:00:00 UTC = 10:00:00 Europe/Berlin (key)"
    )
    assert any(line.startswith("drew the ROI") for line in done.stdout.splitlines()[11:])


@pytest.mark.slow
def test_a_pattern_that_matches_none_of_ten_keys_stops_a_run_before_any_work(models: Models, tmp_path):
    write_frames(tmp_path / "in", *(f"cam-{n}/frame" for n in range(12)))
    given = ["--input", tmp_path / "in", "--output", tmp_path / "out", *models.options(smolvlm=False)]
    pattern = ["--set", f"input.key_pattern={PATTERN}"]
    done = without_ray.command("annotate", *given, *pattern, expect=2)
    assert (
        f"input.key_pattern: {PATTERN} matches none of 10 sampled keys, of which the first is " in done.stderr
    )
    assert "in/cam-0/frame.jpg; write it so that it describes the end of this path" in done.stderr
    assert not (tmp_path / "out" / "commits").exists()
    assert not (tmp_path / "out" / "run.json").exists()


def cameras(output: Path) -> Counter[str | None]:
    return Counter(job.table(output, "frames")["camera"].to_pylist())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_another_pattern_corrects_zones_and_denied_cameras_and_pays_for_no_answer_twice(
    models: Models, tmp_path
):
    names = ("till/20240501_100000", "till/20240501_100005", "door/20240501_100000", "door/odd")
    write_frames(tmp_path / "shop", *names)
    output = tmp_path / "out"
    zone = "[{camera: door, mode: exclude, rectangle: [0, 0, 0.5, 1]}]"
    options = [*models.options(smolvlm=False), "--set", f"roi.static={zone}"]
    with gemini_server() as server:
        asked = gemini_job.options(
            server.base_url, requests_per_minute=1000, cameras={"deny": ["shop", "till"]}
        )

        def run(*settings: str) -> list[str]:
            """Return the images that were sent."""
            before = len(server.journal)
            given = [part for setting in settings for part in ("--set", f"input.{setting}")]
            done = without_ray.annotate(tmp_path / "shop", output, *options, *asked, *given)
            said.append(" ".join((done.stderr + done.stdout).split()))
            return [image for seen in server.journal[before:] for image in seen.images]

        said: list[str] = []
        # This pattern takes the shop for the camera, which is denied.
        assert run("key_pattern={camera}/*/*") == []
        assert cameras(output) == {"shop": 4}
        kept_before = gemini_job.outcomes(output)["denied"]
        sent = run(f"key_pattern={PATTERN}")
        assert cameras(output) == {"till": 2, "door": 1, None: 1}
        outcomes = gemini_job.outcomes(output)
        assert 0 < outcomes["ok"] == len(sent)
        assert run(f"key_pattern={PATTERN}", "timezone=Europe/Berlin") == []
        assert gemini_job.outcomes(output) == outcomes
    persons = job.table(output, "persons").to_pylist()
    at_door = [p for p in persons if p["drop_reason"] == "inside_exclude_zone"]
    assert at_door
    assert outcomes["denied"] + outcomes["ok"] <= kept_before
    rows = job.table(output, "frames").to_pylist()
    times = {row["frame_key"]: row["captured_at"] for row in rows if row["camera"] == "till"}
    assert times["20240501_100005"] == datetime(2024, 5, 1, 8, 0, 5, tzinfo=UTC)
    assert "because settings changed: input.timezone UTC -> Europe/Berlin" in said[2]
    warning = "input.key_pattern: the keys of 1 of the 4 frames don't match it"
    assert f"warning: {warning}" in said[2]
    status = json.loads(without_ray.command("status", "--output", output, "--json").stdout)
    assert status["keys_not_matched"] == 1
    assert any(w.startswith(warning) for w in status["warnings"])
    unmatched = {r["input"]["uri"].rpartition("/")[2]: r["counts"] for r in job.records(output).values()}
    assert {name: counts["keys_not_matched"] for name, counts in unmatched.items()} == {"till": 0, "door": 1}


def test_without_a_pattern_a_dry_run_says_that_there_is_one():
    frame = Frame("a", None, name="a.jpg")
    lines = key_lines([SampledKey("in/till/a.jpg", frame, frame)], InputSettings())
    assert lines == [
        "1 key, and the camera and time of each:",
        "- in/till/a.jpg: no camera; no time",
        "if these paths name camera or time, set input.key_pattern",
    ]
    named = Frame("a", None, name="a.jpg", camera="till")
    assert len(key_lines([SampledKey("in/till/a.jpg", named, named)], InputSettings())) == 2
