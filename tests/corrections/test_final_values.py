"""The final value of an attribute: who decides it, and what a decision is about."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from actors.attributes import AttributeSchema
from actors.corrections.consensus import Consensus
from actors.corrections.decision import Box, Decision
from actors.corrections.final_values import PersonDecisions, decisions_by_row, final_columns
from actors.corrections.settings import ConsensusSettings
from jobs.settings import Settings

SCHEMA = AttributeSchema(Settings().attributes)
LEFT: Box = (0.1, 0.1, 0.2, 0.5)
RIGHT: Box = (0.15, 0.1, 0.25, 0.5)
_clock = itertools.count()


def decision(bbox: Box = LEFT, **given: Any) -> Decision:
    base: dict[str, Any] = {
        "decided_at": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=next(_clock)),
        "reviewer": "ann",
        "tool": "test",
        "shard_id": "a",
        "frame_key": "f",
        "bbox": bbox,
        "detection": "001-00000000",
        "kind": "value",
    }
    return Decision.model_validate(base | given)


def gender(value: Any, bbox: Box = LEFT, **given: Any) -> Decision:
    return decision(bbox, attribute="gender", value=value, **given)


def persons(*boxes: Box) -> pa.Table:
    return pa.table({"frame_key": ["f"] * len(boxes), "bbox": pa.array(boxes, pa.list_(pa.float32()))})


def answers(**by_annotator: list[tuple[str, Any, float | None]]) -> dict[str, dict[str, pa.ChunkedArray]]:
    """Answers about `gender` by annotator: outcome, value and confidence of each person."""
    return {
        name: {
            "status": pa.chunked_array([pa.array([row[0] for row in rows]).dictionary_encode()]),
            "gender": pa.chunked_array([pa.array([row[1] for row in rows], pa.string())]),
            "confidence_gender": pa.chunked_array([pa.array([row[2] for row in rows], pa.float32())]),
        }
        for name, rows in by_annotator.items()
    }


NOTHING = PersonDecisions()


def final(given: dict[str, Any], decided: PersonDecisions = NOTHING, **settings: Any) -> list[tuple]:
    rows = len(next(iter(next(iter(given.values())).values()))) if given else 2
    consensus = Consensus.of(ConsensusSettings(**settings), None)
    found = final_columns(given, decided, SCHEMA, consensus, rows)
    names = ("gender", "gender_source", "gender_confidence")
    return list(zip(*(found[name].to_pylist() for name in names), strict=True))


def test_agreement_comes_before_gemini_and_gemini_before_smolvlm():
    given = answers(
        smolvlm=[("ok", "male", 0.5), ("ok", "male", 0.75), ("ok", "male", 0.5), ("error", None, None)],
        gemini=[
            ("ok", "male", None),
            ("ok", "female", None),
            ("pending", None, None),
            ("blocked", None, None),
        ],
    )
    assert final(given) == [
        ("male", "agreement", 0.5),
        ("female", "gemini", None),
        ("male", "smolvlm", 0.5),
        (None, None, None),
    ]
    assert final(given, precedence=["smolvlm"])[1] == ("male", "smolvlm", 0.75)


def test_null_is_an_answer_like_any_other():
    given = answers(smolvlm=[("ok", None, 0.5), ("ok", "male", 0.5)], gemini=[("ok", None, None)] * 2)
    assert final(given) == [(None, "agreement", 0.5), (None, "gemini", None)]


def test_a_decision_beats_all_annotators_and_the_last_one_counts():
    given = answers(smolvlm=[("ok", "male", 0.5)] * 2, gemini=[("ok", "male", None)] * 2)
    decided = decisions_by_row([gender("female"), gender("unknown")], persons(LEFT, RIGHT))
    assert final(given, decided) == [("unknown", "human", 1.0), ("male", "agreement", 0.5)]


def test_a_withdrawn_decision_does_not_count():
    wrong = gender("female")
    undone = decision(kind="withdrawal", withdraws=wrong.decision_id)
    decided = decisions_by_row([gender("unknown"), wrong, undone], persons(LEFT))
    assert decided.values == {"gender": {0: "unknown"}}


def test_a_decision_follows_its_person_to_a_later_detection():
    moved = (0.11, 0.1, 0.21, 0.5)
    decided = decisions_by_row([gender("female"), gender("male", RIGHT)], persons(RIGHT, moved))
    assert decided.values == {"gender": {1: "female", 0: "male"}}
    assert not decided.lost


def test_two_persons_of_one_detection_never_become_one():
    near = (0.12, 0.1, 0.22, 0.5)
    decided = decisions_by_row([gender("female"), gender("male", near)], persons(LEFT))
    assert decided.values == {"gender": {0: "female"}}
    assert [lost.bbox for lost in decided.lost] == [near]


def test_a_person_who_is_gone_is_reported():
    lost = gender("female", (0.7, 0.7, 0.9, 0.9))
    assert decisions_by_row([lost], persons(LEFT)).lost == (lost,)


def test_not_a_person_and_a_redrawn_box():
    new_box: Box = (0.1, 0.1, 0.3, 0.6)
    decided = decisions_by_row(
        [decision(kind="box", new_bbox=new_box), decision(RIGHT, kind="not_a_person")], persons(LEFT, RIGHT)
    )
    found = final_columns({}, decided, SCHEMA, Consensus.of(ConsensusSettings(), None), 2)
    assert found["is_person"].to_pylist() == [True, False]
    assert found["corrected_bbox"].to_pylist() == [pytest.approx(new_box), None]


@pytest.mark.parametrize("value", [1000, True, "old"])
def test_a_decided_value_that_the_attribute_cannot_have_does_not_count(value: Any):
    decided = decisions_by_row([decision(attribute="exact_age", value=value)], persons(LEFT))
    found = final_columns({}, decided, SCHEMA, Consensus.of(ConsensusSettings(), None), 1)
    assert found["exact_age_source"].to_pylist() == [None]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "value"}, "attribute belongs to"),
        ({"kind": "box"}, "new_bbox belongs to"),
        ({"kind": "not_a_person", "sampling": "random"}, "a probability belongs to"),
        ({"kind": "not_a_person", "bbox": (0.5, 0, 0.2, 1)}, "a box is"),
    ],
)
def test_a_decision_that_makes_no_sense_is_refused(given: dict[str, Any], message: str):
    with pytest.raises(ValidationError, match=message):
        decision(**given)
