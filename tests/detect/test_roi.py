"""Every person is kept or dropped, with the exact reason, under any combination of rules."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from actors.detect.roi import (
    DROP_REASONS,
    PersonBoxes,
    RoiSettings,
    Zone,
    select_candidates,
    select_persons,
)

OFF = {"enabled": False}


def people(*boxes, frame=None, camera=None, height_px=1000, score=None):
    """Build persons from boxes (x1, y1, x2, y2); by default all are in one frame of an unknown camera."""
    count = len(boxes)
    return PersonBoxes(
        frame=np.array(frame if frame is not None else [0] * count),
        camera=camera or [None] * count,
        bbox=np.array(boxes, np.float32).reshape(count, 4),
        frame_height_px=np.broadcast_to(np.array(height_px), (count,)),
        score=np.array(score if score is not None else [0.9] * count, np.float32),
    )


def tall(*heights, **columns):
    return people(*[(0.4, 0.9 - height, 0.5, 0.9) for height in heights], **columns)


def test_by_default_only_the_dynamic_rule_drops():
    assert select_persons(RoiSettings(), tall(0.4, 0.4, 0.19)) == [None, None, "dynamic_height"]
    assert select_persons(RoiSettings(dynamic=OFF), tall(0.4, 0.4, 0.01)) == [None, None, None]


def test_nobody_is_nobody():
    assert select_persons(RoiSettings(max_persons=1), people()) == []


def test_min_score_keeps_the_score_itself():
    settings = RoiSettings(min_score=0.5, dynamic=OFF)
    assert select_persons(settings, tall(0.4, 0.4, score=[0.5, 0.499])) == [None, "min_score"]


def test_min_height_is_in_pixels_of_each_ones_frame():
    settings = RoiSettings(min_height_px=100, dynamic=OFF)
    found = select_persons(settings, tall(0.1, 0.1, 0.099, height_px=[1000, 480, 1000]))
    assert found == [None, "min_height", "min_height"]


# --- zones ---


def test_the_foot_point_decides_and_the_border_is_inside():
    settings = RoiSettings(static=[{"mode": "include", "rectangle": [0.25, 0.5, 0.75, 1.0]}], dynamic=OFF)
    persons = people(
        (0.5, 0.1, 0.6, 0.9),  # the head is outside, the feet are inside
        (0.5, 0.1, 0.6, 0.4),  # the feet are above the zone
        (0.5, 0.1, 0.6, 1.0),  # the feet are on the frame's last row, which is the zone's border
        (0.0, 0.1, 0.5, 0.9),  # the bottom centre is on the left border
        (0.0, 0.1, 0.4, 0.9),  # the right corner is inside, the bottom centre is outside
    )
    outside = "outside_include_zone"
    assert select_persons(settings, persons) == [None, outside, None, None, outside]


def test_concave_polygons_are_not_filled_up():
    notch = [[0, 0], [1, 0], [1, 1], [0.5, 0.2], [0, 1]]
    settings = RoiSettings(static=[{"mode": "exclude", "polygon": notch}], dynamic=OFF)
    persons = people((0.45, 0.3, 0.55, 0.9), (0.0, 0.3, 0.2, 0.5))
    assert select_persons(settings, persons) == [None, "inside_exclude_zone"]


def test_exclude_wins_over_include():
    settings = RoiSettings(
        static=[
            {"mode": "include", "rectangle": [0, 0, 0.6, 1]},
            {"mode": "exclude", "rectangle": [0.4, 0, 1, 1]},
        ],
        dynamic=OFF,
    )
    persons = people((0.1, 0.1, 0.3, 0.9), (0.45, 0.1, 0.55, 0.9), (0.7, 0.1, 0.9, 0.9))
    assert select_persons(settings, persons) == [None, "inside_exclude_zone", "outside_include_zone"]


def test_zones_belong_to_their_camera_and_a_star_to_all():
    settings = RoiSettings(
        static=[
            {"camera": "door", "mode": "include", "rectangle": [0, 0, 0.5, 1]},
            {"camera": "*", "mode": "exclude", "rectangle": [0, 0, 0.1, 1]},
        ],
        dynamic=OFF,
    )
    right, left = (0.8, 0.1, 0.9, 0.9), (0.0, 0.1, 0.1, 0.9)
    persons = people(right, right, right, left, left, camera=["door", "till", None, "till", None])
    excluded = "inside_exclude_zone"
    assert select_persons(settings, persons) == ["outside_include_zone", None, None, excluded, excluded]


def test_one_include_zone_of_several_is_enough():
    zones = [{"mode": "include", "rectangle": [x, 0, x + 0.2, 1]} for x in (0.0, 0.6)]
    persons = people((0.0, 0.1, 0.2, 0.9), (0.6, 0.1, 0.8, 0.9), (0.3, 0.1, 0.5, 0.9))
    found = select_persons(RoiSettings(static=zones, dynamic=OFF), persons)
    assert found == [None, None, "outside_include_zone"]


def overlap(mode, *rectangles, min_overlap=0.5):
    zones = [
        {"mode": mode, "rectangle": r, "test": "overlap", "min_overlap": min_overlap} for r in rectangles
    ]
    return RoiSettings(static=zones, dynamic=OFF)


def test_overlap_is_the_share_of_the_box():
    settings = overlap("include", [0, 0, 0.5, 1])
    persons = people((0.4, 0.1, 0.6, 0.9), (0.41, 0.1, 0.61, 0.9), (0.1, 0.1, 0.2, 0.9))
    assert select_persons(settings, persons) == [None, "outside_include_zone", None]


def test_overlapping_zones_count_shared_area_once_and_add_up_the_rest():
    box = (0.0, 0.0, 1.0, 0.5)
    twice = overlap("exclude", [0, 0, 0.3, 1], [0, 0, 0.3, 1])
    assert select_persons(twice, people(box)) == [None]
    beside = overlap("exclude", [0, 0, 0.3, 1], [0.3, 0, 0.5, 1])
    assert select_persons(beside, people(box)) == ["inside_exclude_zone"]


def test_a_box_without_area_overlaps_nothing():
    assert select_persons(overlap("exclude", [0, 0, 1, 1]), people((0.5, 0.5, 0.5, 0.5))) == [None]


# --- relative height ---


def test_scope_frame_compares_within_each_frame():
    settings = RoiSettings(dynamic={"ratio": 0.5, "scope": "frame"})
    persons = tall(0.8, 0.8, 0.3, 0.2, 0.2, frame=[7, 7, 7, 3, 3])
    assert select_persons(settings, persons) == [None, None, "dynamic_height", None, None]


def test_scope_shard_compares_with_everybody():
    settings = RoiSettings(dynamic={"ratio": 0.5, "scope": "shard"})
    persons = tall(0.8, 0.8, 0.3, 0.8, 0.2, frame=[7, 7, 7, 3, 3])
    low = "dynamic_height"
    assert select_persons(settings, persons) == [None, None, low, None, low]


def test_scope_camera_compares_with_the_same_cameras_frames():
    settings = RoiSettings(dynamic={"ratio": 0.5, "scope": "camera"})
    persons = tall(
        0.8, 0.8, 0.3, 0.2, 0.2, 0.09, frame=[0, 1, 2, 3, 4, 5], camera=["a", "a", "a", None, None, None]
    )
    low = "dynamic_height"
    assert select_persons(settings, persons) == [None, None, low, None, None, low]


def test_a_wider_scope_compares_shares_of_the_frame_not_pixels():
    settings = RoiSettings(dynamic={"ratio": 0.9, "scope": "shard"})
    assert (
        select_persons(settings, tall(0.5, 0.5, 0.5, frame=[0, 1, 2], height_px=[2160, 720, 480]))
        == [None] * 3
    )


def test_equal_heights_survive_a_ratio_of_one():
    persons = people(*[(0.1, y, 0.2, y + 1 / 3) for y in (0.0, 0.111111, 0.2222, 0.3, 0.4567)])
    assert select_persons(RoiSettings(dynamic={"ratio": 1.0}), persons) == [None] * 5


def test_the_median_is_over_those_that_earlier_rules_left():
    persons = tall(0.9, 0.9, 0.9, 0.3, 0.3, score=[0.1, 0.1, 0.1, 0.9, 0.9])
    assert select_persons(RoiSettings(), persons)[3:] == ["dynamic_height"] * 2
    assert select_persons(RoiSettings(min_score=0.5), persons) == ["min_score"] * 3 + [None] * 2


# --- maximum number of persons ---


def test_the_best_scores_of_each_frame_stay_and_equals_go_by_row():
    settings = RoiSettings(max_persons=2, dynamic=OFF)
    persons = tall(0.4, 0.4, 0.4, 0.4, 0.4, frame=[0, 0, 0, 1, 1], score=[0.5, 0.9, 0.5, 0.3, 0.3])
    assert select_persons(settings, persons) == [None, None, "max_persons", None, None]


def test_the_dropped_take_no_place_among_the_most():
    settings = RoiSettings(max_persons=1, min_height_px=200, dynamic=OFF)
    assert select_persons(settings, tall(0.1, 0.4, score=[0.9, 0.5])) == ["min_height", None]


def test_the_first_rule_that_drops_is_the_reason():
    settings = RoiSettings(
        min_score=0.5,
        min_height_px=100,
        max_persons=1,
        static=[
            {"mode": "include", "rectangle": [0, 0, 0.8, 1]},
            {"mode": "exclude", "rectangle": [0.5, 0, 1, 1]},
        ],
    )
    rows = [
        ((0.9, 0.5, 1.0, 0.55), 0.1),
        ((0.9, 0.5, 1.0, 0.55), 0.9),
        ((0.9, 0.2, 1.0, 0.9), 0.9),
        ((0.6, 0.2, 0.7, 0.9), 0.9),
        ((0.1, 0.5, 0.2, 0.7), 0.95),
        ((0.1, 0.2, 0.2, 0.9), 0.8),
        ((0.1, 0.2, 0.2, 0.9), 0.9),
        ((0.1, 0.2, 0.2, 0.9), 0.85),
    ]
    found = select_persons(settings, people(*[r[0] for r in rows], score=[r[1] for r in rows]))
    assert found[:5] == list(DROP_REASONS[:5])
    assert found[5:] == ["max_persons", None, "max_persons"]


@settings(deadline=None)
@given(st.integers(0, 30), st.integers(0, 2**32 - 1), st.sampled_from([None, 1, 3]), st.integers(0, 30))
def test_nobody_who_is_kept_in_the_end_was_certain_to_be_dropped(count, seed, max_persons, others):
    random = np.random.default_rng(seed)

    def columns(rows: int) -> list[list[float]]:
        low = random.uniform(0, 0.6, (rows, 2))
        return np.hstack([low, low + random.choice([0.1, 0.2, 0.3, 0.35], (rows, 2))]).tolist()

    frame, elsewhere = columns(count), columns(others)
    scores = sorted(random.choice([0.2, 0.5, 0.7, 0.9], count).tolist(), reverse=True)
    settings = RoiSettings(
        min_score=0.3,
        max_persons=max_persons,
        dynamic={"scope": "shard", "ratio": 0.9},
        static=[{"mode": "include", "rectangle": [0, 0, 0.7, 0.9]}],
    )
    candidates = select_candidates(settings, people(*frame, score=scores))
    shard = people(
        *frame, *elsewhere, frame=[0] * count + [1] * others, score=[*scores, *random.uniform(0, 1, others)]
    )
    found = select_persons(settings, shard)[:count]
    assert all(reason is None for reason, end in zip(candidates, found, strict=True) if end is None)


@given(st.integers(0, 40), st.integers(0, 2**32 - 1), st.sampled_from(["frame", "shard", "camera"]))
def test_counts_reconcile_and_order_of_rows_does_not_matter(count, seed, scope):
    random = np.random.default_rng(seed)
    low, size = random.uniform(0, 0.6, (count, 2)), random.uniform(0.01, 0.4, (count, 2))
    persons = people(
        *np.hstack([low, low + size]).tolist(),
        frame=random.integers(0, 5, count),
        camera=[[None, "a", "b"][i] for i in random.integers(0, 3, count)],
        score=random.permutation(np.linspace(0.2, 1, count)),
    )
    settings = RoiSettings(
        min_score=0.3,
        min_height_px=30,
        max_persons=3,
        dynamic={"scope": scope},
        static=[
            {"camera": "a", "mode": "include", "rectangle": [0, 0, 0.7, 0.9]},
            {"mode": "exclude", "polygon": [[0, 0], [0.5, 0], [0, 0.5]], "test": "overlap"},
        ],
    )
    found = select_persons(settings, persons)
    counts = Counter(found)
    assert len(found) == count == counts[None] + sum(counts[reason] for reason in DROP_REASONS)
    kept_per_frame = Counter(
        f for f, reason in zip(persons.frame.tolist(), found, strict=True) if reason is None
    )
    assert all(kept <= 3 for kept in kept_per_frame.values())
    order = random.permutation(count)
    shuffled = PersonBoxes(
        persons.frame[order],
        [persons.camera[i] for i in order],
        persons.bbox[order],
        persons.frame_height_px[order],
        persons.score[order],
    )
    assert select_persons(settings, shuffled) == [found[i] for i in order]


# --- settings ---


@pytest.mark.parametrize(
    ("zone", "said"),
    [
        ({"polygon": [[0, 0], [1, 1]]}, "3 different corners or more, not 2"),
        ({"polygon": [[0, 0], [1, 1], [0, 0]]}, "3 different corners or more, not 2"),
        ({"polygon": [[0, 0], [1, 1], [1, 0], [0, 1]]}, "crosses or touches itself"),
        ({"polygon": [[0, 0], [0.5, 0.5], [1, 1]]}, "crosses or touches itself"),
        ({"polygon": [[0, 0], [640, 0], [640, 480]]}, "640 is outside 0..1.*divide pixels"),
        ({"rectangle": [0, 0, 0.5, float("nan")]}, "nan is outside 0..1"),
        ({"rectangle": [0.5, 0, 0.5, 1]}, "left < right"),
        ({"rectangle": [0, 0.9, 0.5, 0.1]}, "top < bottom"),
        ({}, "either a polygon or a rectangle"),
        ({"rectangle": [0, 0, 1, 1], "polygon": [[0, 0], [1, 0], [1, 1]]}, "either a polygon or a rectangle"),
        ({"rectangle": [0, 0, 1, 1], "min_overlap": 0}, "greater than 0"),
        ({"rectangle": [0, 0, 1, 1], "test": "centre"}, "foot_point"),
    ],
)
def test_zones_that_can_not_be_say_why(zone, said):
    with pytest.raises(ValidationError, match=said):
        Zone(mode="include", **zone)


def test_a_mode_must_be_given_and_settings_hash():
    with pytest.raises(ValidationError, match="mode"):
        Zone(rectangle=(0, 0, 1, 1))
    zone = {"mode": "include", "rectangle": [0, 0, 1, 1]}
    assert hash(RoiSettings(static=[zone])) == hash(RoiSettings(static=[zone]))


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="different lengths"):
        people((0, 0, 1, 1), camera=["a", "b"])
