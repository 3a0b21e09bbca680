"""Gold labels: what people decided about persons that were drawn at random with a recorded probability."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from actors.attribute import Attribute, AttributeValue, same_value
from actors.attributes import AttributeSchema
from actors.corrections.decision import MISSED, Box, Decision, in_force
from actors.corrections.matching import as_box, find_persons
from actors.fingerprint import fingerprint_of

Floats = NDArray[np.float64]

USED = "random, used"
BY_NEED = "by need, not used"
NO_VALUE = "random, about a box or a detection"
NOBODY = "random, without a person now"
REPLACED = "random, replaced by a later one"
UNKNOWN = "random, about a value that the attributes lack"
WITHDRAWN = "withdrawn, or a withdrawal"
MISSED_PERSON = "about a missed person, who has no answers"


@dataclass(frozen=True, slots=True)
class Gold:
    """The n persons about whom people decided in random draws, and are in the consolidated table.

    Attributes:
        rows: [n] their consolidated rows.
        truth: By attribute, the decided value by row. Null says that the value can't be told.
        probability: By attribute, the probability of inclusion by row, of the rows in `truth`.
        not_persons: Rows that were called no person, with their probability of inclusion.
        clusters: int64 [n]: persons of one camera and minute, or of one frame without a time, share a number.
        decisions: What became of all decisions of the output, by kind; they add up.
        digest: Changes with the decisions that are used.
    """

    rows: pa.Table
    truth: Mapping[str, Mapping[int, AttributeValue]]
    probability: Mapping[str, Mapping[int, float]]
    not_persons: Mapping[int, float]
    clusters: NDArray[np.int64]
    decisions: Mapping[str, int]
    digest: str

    def about(self, attribute: Attribute) -> tuple[NDArray[np.int64], list[AttributeValue], Floats]:
        """Return rows with a decided value, these values, and the weights: one over the probability."""
        truth = {
            row: value
            for row, value in self.truth.get(attribute.name, {}).items()
            if row not in self.not_persons
        }
        rows = np.array(sorted(truth), np.int64)
        chances = [self.probability[attribute.name][row] for row in rows.tolist()]
        return rows, [truth[row] for row in rows.tolist()], 1 / np.array(chances, np.float64)


def read_gold(
    persons: ds.Dataset, attributes: AttributeSchema, decisions: Mapping[str, Sequence[Decision]]
) -> Gold:
    """Find the persons of random decisions in the consolidated table.

    Of several random decisions about one value the last one counts. A later decision by need does not
    replace it, because only some persons are looked at once more. The person's probability is the largest
    that these decisions record, as of an audit that was continued with a larger sample.

    Args:
        persons: The consolidated table.
        attributes: The attributes of the last run.
        decisions: All decisions by shard.
    """
    counts: Counter[str] = Counter()
    random: dict[str, list[Decision]] = {}
    for shard_id, of_shard in decisions.items():
        counting = in_force(list(of_shard))
        counts[WITHDRAWN] += len(of_shard) - len(counting)
        for decision in counting:
            if decision.detection == MISSED:
                counts[MISSED_PERSON] += 1
            elif decision.sampling != "random":
                counts[BY_NEED] += 1
            else:
                random.setdefault(shard_id, []).append(decision)
    rows = persons.to_table(filter=pc.field("shard_id").isin(pa.array(sorted(random), pa.string())))
    rows = rows.sort_by([(name, "ascending") for name in ("shard_id", "frame_key", "person_index")])
    known = {attribute.name: attribute for attribute in attributes}
    found: dict[tuple[int, str], list[Decision]] = {}
    not_persons: dict[int, float] = {}
    for decision, row in _places(random, rows):
        attribute = known.get(decision.attribute or "")
        if row is None:
            counts[NOBODY] += 1
        elif decision.kind != "value":
            counts[NO_VALUE] += 1
            if decision.kind == "not_a_person":
                not_persons[row] = max(not_persons.get(row, 0), decision.probability or 1)
        elif attribute is None or not _is_value(decision.value, attribute):
            counts[UNKNOWN] += 1
        else:
            found.setdefault((row, attribute.name), []).append(decision)
    truth: dict[str, dict[int, AttributeValue]] = {}
    probability: dict[str, dict[int, float]] = {}
    for (row, name), some in found.items():
        truth.setdefault(name, {})[row] = some[-1].value
        probability.setdefault(name, {})[row] = max(one.probability or 1 for one in some)
        counts[USED] += 1
        counts[REPLACED] += len(some) - 1
    about = sorted({row for row, _ in found} | not_persons.keys())
    place = {row: number for number, row in enumerate(about)}
    return Gold(
        rows.take(pa.array(about, pa.int64())),
        {name: {place[row]: value for row, value in of.items()} for name, of in truth.items()},
        {name: {place[row]: value for row, value in of.items()} for name, of in probability.items()},
        {place[row]: chance for row, chance in not_persons.items()},
        clusters_of(rows.take(pa.array(about, pa.int64()))),
        dict(sorted((kind, n) for kind, n in counts.items() if n)),
        fingerprint_of(sorted(some[-1].decision_id for some in found.values()))[:16],
    )


def clusters_of(rows: pa.Table) -> NDArray[np.int64]:
    """Return a number that persons of one camera and minute share, or of one frame if it has no time.

    Args:
        rows: [n] persons with shard_id, frame_key, camera and captured_at.
    """
    minute = pc.cast(pc.floor_temporal(rows["captured_at"], unit="minute"), pa.int64())
    frame = pc.binary_join_element_wise(rows["shard_id"], rows["frame_key"], "\n")
    camera = pc.fill_null(rows["camera"], "")
    timed = pc.binary_join_element_wise(camera, minute.cast(pa.string()), "\n\n")
    names = pc.coalesce(timed, frame).combine_chunks()
    return np.asarray(names.dictionary_encode().indices.to_numpy(), np.int64)


def _places(decisions: Mapping[str, Sequence[Decision]], rows: pa.Table) -> list[tuple[Decision, int | None]]:
    """Return each decision with the row of its person, in the order in which they were made by shard."""
    boxes: dict[str, dict[str, list[Box]]] = {}
    row_of: dict[tuple[str, str, int], int] = {}
    listed = zip(*(rows[name].to_pylist() for name in ("shard_id", "frame_key", "bbox")), strict=True)
    for row, (shard_id, frame_key, bbox) in enumerate(listed):
        in_frame = boxes.setdefault(shard_id, {}).setdefault(frame_key, [])
        row_of[shard_id, frame_key, len(in_frame)] = row
        in_frame.append(as_box(bbox))
    placed: list[tuple[Decision, int | None]] = []
    for shard_id, some in decisions.items():
        at = find_persons(some, boxes.get(shard_id, {}))
        for decision in some:
            place = at[decision.decision_id]
            placed.append((decision, None if place is None else row_of[shard_id, *place]))
    return placed


def _is_value(value: Any, attribute: Attribute) -> bool:
    return value is None or any(same_value(value, one) for one in attribute.values)
