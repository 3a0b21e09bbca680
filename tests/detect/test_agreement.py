"""Two networks are compared person by person, and each kind of disagreement has its bound."""

from __future__ import annotations

import numpy as np
import pytest

from actors.detect.agreement import compare_boxes
from actors.detect.int8_choice import Int8Choice

CONFIDENCE = 0.25


def frames(persons_each: int = 5, count: int = 10, score: float = 0.8) -> list[np.ndarray]:
    """Return frames with persons who stand 100 px apart."""
    left = 100 * np.arange(persons_each, dtype=np.float32)
    boxes = np.stack([left, left * 0, left + 50, left * 0 + 150, np.full_like(left, score)], axis=1)
    return [boxes.copy() for _ in range(count)]


def compared(other: list[np.ndarray], reference: list[np.ndarray] | None = None):
    return compare_boxes(frames() if reference is None else reference, other, CONFIDENCE)


def test_the_same_boxes_agree():
    found = compared(frames())
    assert found.frames == 10
    assert found.persons == 50
    assert (found.found, found.added, found.score_difference) == (1, 0, 0)
    assert found.ap50 == pytest.approx(1)
    assert found.ap50_95 == pytest.approx(1)
    assert found.objections() == []


def test_persons_that_are_missing_are_an_objection():
    found = compared([boxes[:4] for boxes in frames()])
    assert found.found == pytest.approx(0.8)
    assert any(text.startswith("finds 80.0% of the persons") for text in found.objections())


def test_persons_that_are_added_are_an_objection():
    found = compared(frames(6))
    assert found.added == pytest.approx(0.2)
    assert found.found == 1
    assert found.objections()[0].startswith("adds 20.0% persons")


def test_other_scores_are_an_objection():
    found = compared(frames(score=0.7))
    assert found.score_difference == pytest.approx(0.1)
    assert [text.split(" (")[0] for text in found.objections()] == ["its scores differ by 0.100"]


def test_boxes_that_are_moved_are_an_objection_long_before_they_miss_their_person():
    moved = [boxes + np.array([8, 0, 8, 0, 0], np.float32) for boxes in frames()]
    found = compared(moved)
    assert found.found == 1
    assert found.ap50 == pytest.approx(1)
    assert [text.split(" of")[0] for text in found.objections()] == ["has an AP50-95"]


def test_a_score_that_crosses_the_minimum_is_no_missing_person():
    found = compared(frames(score=0.24), frames(score=0.26))
    assert (found.found, found.added) == (1, 0)
    assert found.score_difference == pytest.approx(0.02)


def test_a_person_that_is_below_the_minimum_in_the_reference_is_not_added():
    assert compared(frames(score=0.26), [*frames(score=0.24)[:5], *frames()[5:]]).added == 0


def test_too_few_persons_say_nothing():
    few = frames(1, 19)
    found = compared(few, few)
    assert (found.persons, found.ap50) == (19, pytest.approx(1))
    assert found.objections() == ["float32 finds 19 persons in 19 frames (at least 20)"]
    nobody = [np.zeros((0, 5), np.float32)]
    assert compared(nobody, nobody).objections() == ["float32 finds 0 persons in 1 frames (at least 20)"]


def test_two_boxes_never_find_one_person():
    twice = [np.concatenate([boxes, boxes]) for boxes in frames()]
    assert compared(twice).added == 1


def test_as_many_persons_as_can_be_are_found_where_people_stand_close():
    """The box at 14 overlaps most with the one at 26, which would leave the one at 0 without any."""

    def beside(*left: float) -> list[np.ndarray]:
        boxes = [(x, 0, x + 50, 150, 0.8) for x in left]
        return [np.array(boxes, np.float32) for _ in range(10)]

    found = compared(beside(14, 40), beside(0, 26))
    assert (found.persons, found.found, found.added) == (20, 1, 0)


@pytest.mark.parametrize(("milliseconds", "objections"), [(15.0, 0), (19.5, 1), (25.0, 1)])
def test_a_network_that_is_not_faster_here_is_not_taken(milliseconds, objections):
    choice = Int8Choice(
        taken=False,
        network="0" * 64,
        calibration_frames=100,
        agreement=compared(frames()),
        milliseconds=milliseconds,
        instead="bfloat16",
        instead_milliseconds=20,
        packages={},
    )
    assert len(choice.objections()) == objections
    assert choice.text().startswith("bfloat16; int8 was not taken")
    assert (
        choice.model_copy(update={"taken": True}).text().startswith("int8: over 10 frames, int8 finds 100.0%")
    )
