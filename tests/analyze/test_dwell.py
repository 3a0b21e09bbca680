"""Dwell and visitors: what linked people say, and what can't be said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from demo.tracks import make_tracks
from tests.analyze.tracked import Analyze, person, walked, write
from tests.support.committed import said

DURATION_S = 1200


def zones_file(folder: Path, **content: Any) -> Path:
    path = folder / "zones.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def times(interval_s: float) -> list[float]:
    return np.arange(0, DURATION_S + interval_s / 2, interval_s).tolist()


def test_at_a_frame_in_five_seconds_only_those_who_stand_are_linked(tmp_path: Path, analyze: Analyze):
    tracks = make_tracks(seed=2, duration_s=DURATION_S, visits_per_hour=90, mean_stop_s=60)
    store = write(tmp_path / "out", {"floor": walked(tracks, times(5))})
    found = analyze.finds(store)
    (floor,) = found["dwell"]
    assert "Frames are 5 s apart, so people who walk can't be linked" in floor["said"]
    stops = [stop.ended_s - stop.began_s for track in tracks for stop in track.stops]
    stops = [seconds for seconds in stops if seconds > 5]
    assert floor["mean_s"] == pytest.approx(np.mean(stops), rel=0.1)
    assert 0.5 < floor["linked_share"] < 1
    assert "linked by their boxes and by the final values of gender, age_group" in floor["rests_on"]
    assert found["visitors"]["ranges"] == []
    assert "The number of visitors is not known: people who walk can't be linked" in analyze.says(store)


def test_visitors_are_occupancy_divided_by_a_dwell_that_is_given(tmp_path: Path, analyze: Analyze):
    tracks = make_tracks(seed=2, duration_s=DURATION_S, visits_per_hour=90, mean_stop_s=60)
    store = write(tmp_path / "out", {"floor": walked(tracks, times(5))})
    mean = float(np.mean([track.ended_s - track.began_s for track in tracks]))
    known = {"dwell_s": [0.9 * mean, 1.1 * mean], "door_count": 1000, "door_error": 0.1}
    found = analyze.finds(store, "--zones", zones_file(tmp_path, visitors=known))
    door, dwell = found["visitors"]["ranges"]
    assert (door["by"], door["low"], door["high"]) == ("door", 900, 1100)
    assert dwell["by"] == "dwell"
    assert dwell["low"] < len(tracks) < dwell["high"]
    assert "dwell_s is from 9 to 5" in analyze.says(
        store, "--zones", zones_file(tmp_path, visitors={"dwell_s": [9, 5]}), expect=2
    )


def test_at_two_frames_a_second_visitors_are_followed_through_the_view(tmp_path: Path, analyze: Analyze):
    tracks = make_tracks(seed=3, duration_s=DURATION_S, visits_per_hour=60, mean_stop_s=30)
    store = write(tmp_path / "out", {"floor": walked(tracks, times(0.5), missed=0.02)})
    found = analyze.finds(store)
    (range_,) = found["visitors"]["ranges"]
    assert range_["by"] == "links"
    assert range_["low"] <= len(tracks) <= range_["high"] <= 1.2 * len(tracks)
    (floor,) = found["dwell"]
    assert floor["said"] is None
    assert floor["linked_share"] > 0.97
    whole = [track.ended_s - track.began_s for track in tracks if track.ended_s < DURATION_S]
    assert floor["mean_visit_s"] == pytest.approx(np.mean(whole), rel=0.1)


def test_wrong_answers_do_not_break_tracks(tmp_path: Path, analyze: Analyze):
    rng = np.random.default_rng(8)
    tracks = make_tracks(seed=3, duration_s=300, visits_per_hour=90, mean_stop_s=30)
    frames = walked(tracks, np.arange(0, 300, 0.5).tolist())
    looks = {
        "gender": ("male", "female"),
        "age_group": ("18 to 28", "28 to 38"),
        "season_clothing": ("summer", "winter"),
    }
    wrong = {
        # Everybody looks alike, and one answer of seven is wrong.
        at: [
            replace(
                one,
                answers={
                    "smolvlm": said(**{n: str(rng.choice(v, p=[6 / 7, 1 / 7])) for n, v in looks.items()})
                },
            )
            for one in seen
            if not isinstance(one, str)
        ]
        for at, seen in frames.items()
    }
    found = analyze.finds(write(tmp_path / "out", {"floor": wrong}))
    (range_,) = found["visitors"]["ranges"]
    assert range_["low"] <= len(tracks) <= range_["high"] <= 1.2 * len(tracks)


def test_two_cameras_give_at_least_the_busier_and_at_most_the_sum(tmp_path: Path, analyze: Analyze):
    tracks = make_tracks(seed=5, duration_s=300, visits_per_hour=120, mean_stop_s=10)
    frames = walked(tracks, np.arange(0, 300, 0.5).tolist())
    store = write(tmp_path / "out", {"left": frames, "right": frames})
    (both,) = analyze.finds(store)["visitors"]["ranges"]
    path = zones_file(tmp_path, same_place=[["left", "right"]])
    (one,) = analyze.finds(store, "--zones", path)["visitors"]["ranges"]
    assert (both["low"], both["high"]) == (one["low"], 2 * one["high"])


def test_nobody_is_linked_over_more_than_the_longest_link(tmp_path: Path, analyze: Analyze):
    seldom = {at: [person(0.5, 0.9)] for at in (0, 20, 40)}
    store = write(tmp_path / "out", {"door": seldom, "till": seldom})
    door, _ = analyze.finds(store)["dwell"]
    assert (door["interval_s"], door["stops"], door["mean_s"], door["rests_on"]) == (None, 0, None, None)
    printed = analyze.says(store)
    assert printed.count("within analyze.max_link_s (10 s)") == 1
    assert "door, till: No two frames" in printed


def test_somebody_who_looks_different_is_somebody_else(tmp_path: Path, analyze: Analyze):
    frames: dict[float, Any] = {-5.0: [], 60.0: []}
    for at in range(0, 30, 5):
        frames[float(at)] = [
            person(0.5, 0.9, gender="female", age_group="under 18", season_clothing="summer")
        ]
        frames[float(30 + at)] = [
            person(0.5, 0.9, gender="male", age_group="58 and over", season_clothing="winter")
        ]
    store = write(tmp_path / "out", {"door": dict(sorted(frames.items()))})
    (door,) = analyze.finds(store)["dwell"]
    assert (door["stops"], door["mean_s"]) == (2, 30)
