"""`shopframe analyze` counts people over the time that was observed, by camera, zone, hour and attribute."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import yaml

from actors.corrections.decision import Decision
from actors.corrections.decision_log import append
from actors.storage.object_store import ObjectStore
from demo.tracks import SHELF, TILL, make_tracks, person_seconds
from jobs.settings import Settings
from tests.analyze.tracked import Analyze, person, walked, write
from tests.conftest import REPO_ROOT
from tests.support.committed import Found, write_output
from tests.support.consolidating import consolidate

TILL_ZONE = {"name": "till", "kind": "till", "rectangle": list(TILL)}


def zones_file(folder: Path, **content: Any) -> Path:
    path = folder / "zones.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_occupancy_and_person_seconds_are_those_of_the_tracks(tmp_path: Path, analyze: Analyze):
    duration = 1800
    tracks = make_tracks(seed=4, duration_s=duration, visits_per_hour=60, mean_stop_s=60)
    times = np.arange(0, duration + 1, 2.0).tolist()
    store = write(tmp_path / "out", {"floor": walked(tracks, times)})
    shelf = {"name": "shelf", "camera": "floor", "rectangle": list(SHELF)}
    found = analyze.finds(store, "--zones", zones_file(tmp_path, zones=[TILL_ZONE, shelf]))
    (floor,) = found["cameras"]
    expected = person_seconds(tracks, duration)
    assert floor["person_seconds"] == pytest.approx(expected, rel=0.02)
    assert floor["occupancy"] == pytest.approx(expected / duration, rel=0.02)
    in_zone = {zone["zone"]: zone["person_seconds"] for zone in found["zones"]}
    assert in_zone["till"] == pytest.approx(person_seconds(tracks, duration, TILL), rel=0.02)
    assert in_zone["shelf"] == pytest.approx(person_seconds(tracks, duration, SHELF), rel=0.02)


def test_frames_without_people_count_and_failed_frames_do_not(tmp_path: Path, analyze: Analyze):
    frames = {0: [person(0.5, 0.9)] * 2, 10: [], 20: "truncated", 30: [], 40: [person(0.5, 0.9)] * 2}
    found = analyze.finds(write(tmp_path / "out", {"door": frames}))
    (door,) = found["cameras"]
    assert (door["frames"], door["observed_s"], door["most_in_a_frame"]) == (4, 40, 2)
    # Between 0 and 10 s and between 30 and 40 s there is on average one person.
    assert door["person_seconds"] == 20
    assert door["occupancy"] == 0.5
    assert "Left out: 1 frame that failed." in found["notes"]


def test_long_gaps_are_left_out_and_said(tmp_path: Path, analyze: Analyze):
    store = write(tmp_path / "out", {"door": {at: [person(0.5, 0.9)] for at in (0, 10, 3610, 3620)}})
    found = analyze.finds(store)
    (door,) = found["cameras"]
    assert (door["person_seconds"], found["coverage"]["left_out_s"]) == (20, 3600)
    assert any(
        note.startswith("Observed: 20 seconds,") and note.endswith("1 longer gap, together 60.0 minutes.")
        for note in found["notes"]
    )
    (door,) = analyze.finds(store, "--set", "analyze.max_gap_s=4000")["cameras"]
    assert door["person_seconds"] == 3620


def test_frames_too_far_apart_still_have_an_occupancy(tmp_path: Path, analyze: Analyze):
    frames = {at * 300: [person(0.5, 0.9)] * (at % 3) for at in range(6)}
    (door,) = analyze.finds(write(tmp_path / "out", {"door": frames}))["cameras"]
    assert (door["observed_s"], door["person_seconds"], door["occupancy"]) == (0, 0, 1)


def test_queue_lengths_have_a_distribution_over_time(tmp_path: Path, analyze: Analyze):
    lengths = [0, 0, 1, 1, 1, 3, 3, 3, 3, 3, 0]
    frames = {at * 10: [*[person(0.7, 0.9)] * length, person(0.2, 0.6)] for at, length in enumerate(lengths)}
    store = write(tmp_path / "out", {"till": frames})
    found = analyze.finds(store, "--zones", zones_file(tmp_path, zones=[TILL_ZONE]))
    (queue,) = found["queues"]
    assert (queue["median"], queue["p90"], queue["longest"]) == (1, 3, 3)
    assert queue["mean"] == pytest.approx(1.8)
    assert queue["empty"] == pytest.approx(0.2)
    assert {row["length"]: row["seconds"] for row in found["queue_lengths"]} == {0: 20, 1: 30, 3: 50}
    assert "till" in analyze.says(store, "--zones", tmp_path / "zones.yaml")


def test_shares_without_human_labels_have_no_interval_and_say_so(tmp_path: Path, analyze: Analyze):
    store = write(
        tmp_path / "out",
        {
            "door": {
                0: [person(0.5, 0.9, gender="female"), person(0.2, 0.9, gender="male")],
                5: [person(0.5, 0.9, gender="female")],
            }
        },
    )
    found = analyze.finds(store)
    genders = {row["value"]: row for row in found["attributes"] if row["attribute"] == "gender"}
    assert (genders["female"]["persons"], genders["female"]["of"]) == (2, 3)
    assert genders["female"]["share"] == pytest.approx(2 / 3)
    for row in found["attributes"]:
        assert (row["low"], row["high"]) == (None, None)
        assert row["rests_on"].startswith("a model's guess: nobody of these persons was drawn at random")
    printed = analyze.says(store)
    assert "gender: a model's guess" in printed
    assert "95%" not in printed


def test_people_whom_a_reviewer_called_no_person_are_not_counted(tmp_path: Path, analyze: Analyze):
    store = write(tmp_path / "out", {"door": {0: [person(0.5, 0.9)], 10: [person(0.5, 0.9)]}})
    about = {"shard_id": "shard-0", "frame_key": "0-000001", "bbox": person(0.5, 0.9).bbox}
    given = {"detection": "001-00000000", "reviewer": "ann", "tool": "test", "kind": "not_a_person"}
    append(store, [Decision.model_validate(about | given)])
    consolidate(store)
    assert analyze.finds(store)["cameras"][0]["person_seconds"] == 5


def test_tables_are_written_as_parquet_and_csv_by_the_columns_asked_for(tmp_path: Path, analyze: Analyze):
    frames = {at * 60: [person(0.7, 0.9)] * (at // 60) for at in range(121)}
    store = write(tmp_path / "out", {"till": frames})
    analyze.says(store, "--by", "date,weekday,hour", "--zones", zones_file(tmp_path, timezone="Asia/Tokyo"))
    analysis = tmp_path / "out" / "analysis"
    with (analysis / "occupancy.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["date"], row["weekday"], row["hour"]) for row in rows] == [
        ("2026-03-07", "saturday", "18"), ("2026-03-07", "saturday", "19"), ("2026-03-07", "saturday", "20"),
    ]  # fmt: skip
    parquet = duckdb.sql(f"SELECT hour, frames FROM '{analysis}/occupancy.parquet' ORDER BY hour").fetchall()
    assert parquet == [(18, 60), (19, 60), (20, 1)]
    analyze.says(store, "--to", tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "zones.parquet").is_file()
    assert json.loads((tmp_path / "elsewhere" / "summary.json").read_text())["by"] == ["camera", "hour"]


def by_hour(numbers: dict[int, int], minutes: int = 31, step_s: int = 60) -> dict[float, list[Found]]:
    """Frames in the first minutes of hours of the day, with a number of persons in each."""
    return {
        (hour - 9) * 3600 + second: [person(0.7, 0.9)] * number
        for hour, number in numbers.items()
        for second in range(0, minutes * 60, step_s)
    }


@pytest.mark.parametrize(("minutes", "step_s"), [(31, 60), (60, 120)])
def test_peaks_and_quiet_hours_are_ranked(tmp_path: Path, analyze: Analyze, minutes: int, step_s: int):
    # Where frames are too far apart to observe anything between them, thirty of them count.
    busy = {9: 1, 10: 4, 11: 2, 12: 0, 13: 3}
    frames = by_hour(busy, minutes, step_s) | by_hour({14: 9}, 20, step_s)
    store = write(tmp_path / "out", {"till": frames})
    found = analyze.finds(store)
    assert [row["hour"] for row in found["busiest"]] == [10, 13]
    assert [row["hour"] for row in found["quietest"]] == [12, 9]
    assert {row["hour"]: row["rank"] for row in found["hours"]} == {
        9: 4,
        10: 1,
        11: 3,
        12: 5,
        13: 2,
        14: None,
    }
    assert found["no_peaks"] is None
    assert "busiest hours of the day (UTC): 10:00 (4.00 people at once), 13:00" in analyze.says(store)


def test_hours_without_one_of_the_cameras_or_without_others_are_no_peaks(tmp_path: Path, analyze: Analyze):
    both, alone = by_hour({9: 1}), by_hour({10: 1})
    store = write(tmp_path / "out", {"till": both | alone, "door": both})
    found = analyze.finds(store)
    assert (found["busiest"], found["quietest"]) == ([], [])
    assert found["no_peaks"].startswith("There are no busiest and no quietest hours: that takes at least two")
    printed = analyze.says(store)
    assert found["no_peaks"] in printed
    assert "busiest hours of the day" not in printed


def test_times_are_in_the_shops_zone_and_name_it(tmp_path: Path, analyze: Analyze):
    settings = Settings.model_validate({"input": {"timezone": "Asia/Tokyo"}})
    store = write(tmp_path / "out", {"till": by_hour({9: 1, 10: 2})}, settings)
    found = analyze.finds(store)
    assert found["timezone"] == "Asia/Tokyo"
    assert [row["hour"] for row in found["busiest"]] == [19]
    analysis = tmp_path / "out" / "analysis"
    for name in ("occupancy", "attributes", "course", "hours"):
        zones = duckdb.sql(f"SELECT DISTINCT timezone FROM '{analysis}/{name}.parquet'").fetchall()
        assert zones == [("Asia/Tokyo",)], name
    # A zones file that names another zone is right.
    assert analyze.finds(store, "--zones", zones_file(tmp_path, timezone="UTC"))["timezone"] == "UTC"


def test_small_sums_of_time_are_not_rounded_away(tmp_path: Path, analyze: Analyze):
    store = write(tmp_path / "out", {"till": {0: [person(0.7, 0.9)], 4: []}})
    assert re.search(r"till\s+0\.50\s+1\s+2\.0 seconds", analyze.says(store))


def test_staff_zones_opening_hours_and_repeated_places_are_known(tmp_path: Path, analyze: Analyze):
    both = {at * 10: [person(0.7, 0.9), person(0.2, 0.6)] for at in range(7)}
    early = {-3600 + at: [person(0.7, 0.9)] * 5 for at in range(3)}
    store = write(tmp_path / "out", {"left": early | both, "right": both})
    path = zones_file(
        tmp_path,
        zones=[{"name": "counter", "kind": "staff", "rectangle": [0.1, 0.5, 0.3, 0.7]}, TILL_ZONE],
        opening_hours={"saturday": [{"opens": "09:00", "closes": "18:00"}]},
        same_place=[["left", "right"]],
    )
    found = analyze.finds(store, "--zones", path)
    assert [camera["person_seconds"] for camera in found["cameras"]] == [60, 60]
    zones = {zone["zone"]: zone["person_seconds"] for zone in found["zones"]}
    assert zones == {"counter": 60, "till": 60}
    (hour,) = found["hours"]
    assert (hour["hour"], hour["occupancy"]) == (9, 1)
    coverage = found["coverage"]
    assert (coverage["closed"], coverage["staff"], coverage["persons"]) == (3, 14, 14)
    assert {row["persons"] for row in found["attributes"]} == {7}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"zones": [TILL_ZONE | {"colour": "red"}]}, "zones.0.colour: unknown key"),
        ({"zones": [{"name": "till"}]}, "give either a polygon or a rectangle"),
        ({"zones": [TILL_ZONE | {"camera": "dor"}]}, "no frame is of the camera dor; frames are of door"),
        ({"timezone": "Mars/Olympus"}, "timezone: Mars/Olympus is no time zone"),
        ({"opening_hours": {"someday": []}}, "opening_hours.someday"),
        ({"same_place": [["door", "door"]]}, "door is there twice"),
    ],
)
def test_a_wrong_zones_file_is_refused(
    tmp_path: Path, analyze: Analyze, content: dict[str, Any], message: str
):
    store = write(tmp_path / "out", {"door": {0: []}})
    assert message in analyze.says(store, "--zones", zones_file(tmp_path, **content), expect=2)
    assert not (tmp_path / "out" / "analysis").exists()


def test_frames_without_times_are_counted_and_give_no_figures(tmp_path: Path, analyze: Analyze):
    store = ObjectStore(str(tmp_path / "out"))
    write_output(store, {"a": {"f": [person(0.5, 0.9)], "g": []}})
    consolidate(store)
    found = analyze.finds(store)
    assert (found["coverage"]["without_time"], found["cameras"], found["attributes"]) == (2, [], [])
    assert "No frame has a time, so there are no figures" in analyze.says(store)


def documented(language: str) -> str:
    """The block in this language in the part of docs/statistics.md about the shop."""
    text = (REPO_ROOT / "docs" / "statistics.md").read_text(encoding="utf-8").split("## What the shop did")[1]
    text = text.split("\n## ")[0]
    (block,) = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return str(block)


def test_the_documented_queries_give_the_same_figures(tmp_path: Path, analyze: Analyze):
    frames = {at * 7: [person(0.5, 0.9, gender="female")] * (at % 3) for at in range(9)}
    store = write(tmp_path / "out", {"door": frames | {300: []}})
    queries = documented("sql").replace("'out/", f"'{tmp_path}/out/").split(";")[:3]
    with duckdb.connect() as database:
        database.execute(queries[0])
        ((camera, occupancy, person_seconds),) = database.execute(queries[1]).fetchall()
        genders = database.execute(queries[2]).fetchall()
    found = analyze.finds(store)
    (door,) = found["cameras"]
    assert (camera, occupancy, person_seconds) == ("door", door["occupancy"], door["person_seconds"])
    assert genders == [("door", "female", 9)]
    assert found["attributes"][0]["persons"] == 9


def test_the_documented_zones_file_is_read(tmp_path: Path, analyze: Analyze):
    cameras = {name: {0: [person(0.6, 0.9)], 10: []} for name in ("till", "till-left", "aisle")}
    store = write(tmp_path / "out", cameras)
    path = tmp_path / "zones.yaml"
    path.write_text(documented("yaml"))
    found = analyze.finds(store, "--zones", path)
    zones = {zone["zone"]: zone["person_seconds"] for zone in found["zones"]}
    assert zones == {"bakery": 0, "counter": 0, "till 1": 5}


def test_an_unknown_column_is_refused(tmp_path: Path, analyze: Analyze):
    store = write(tmp_path / "out", {"door": {0: [person(0.5, 0.9)]}})
    assert "--by when: when: use some of camera, zone, date" in analyze.says(store, "--by", "when", expect=2)
