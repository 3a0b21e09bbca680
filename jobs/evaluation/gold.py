"""Gold labels: what people decided about persons that were drawn at random with a recorded probability."""

from __future__ import annotations

from collections import Counter, defaultdict
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
from actors.corrections.draw import EVERYBODY, Among, Draw, in_words
from actors.corrections.matching import as_box, find_persons
from actors.fingerprint import fingerprint_of
from jobs.evaluation.populations import Populations, is_known, populations_of
from jobs.evaluation.shares import MIN_LABELS

Floats = NDArray[np.float64]

USED = "random, used"
BY_NEED = "by need, not used"
BY_ANSWERS = "random, among persons chosen by their values, not used"
ELSEWHERE = "random, not among those for whom the numbers stand, not used"
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
        probability: By attribute, the probability of inclusion by row, of the rows in `truth` and of those
            that were called no person in a draw in which people decided about the attribute.
        not_persons: Rows that were called no person.
        populations: Among whom the persons were drawn.
        reach: By attribute, the populations that decisions about it stand for.
        too_few: Attributes about which people have decided too few persons of each population, so that
            nothing has an interval.
        clusters: int64 [n]: persons of one camera and minute, or of one frame without a time, share a number.
        decisions: What became of all decisions of the output, by kind; they add up.
        unrecorded: Whether decisions of an earlier version are used, which don't record among whom was drawn.
        digest: Changes with the decisions that are used.
    """

    rows: pa.Table
    truth: Mapping[str, Mapping[int, AttributeValue]]
    probability: Mapping[str, Mapping[int, float]]
    not_persons: frozenset[int]
    populations: Populations
    reach: Mapping[str, frozenset[Among]]
    too_few: frozenset[str]
    clusters: NDArray[np.int64]
    decisions: Mapping[str, int]
    unrecorded: bool
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

    def outside(self, attribute: str | None = None, cells: Mapping[str, int] | None = None) -> int:
        """Return how many persons could not be drawn in any draw in which people decided about an attribute.

        Args:
            attribute: The attribute; None for any of them.
            cells: Number of persons by cell of `populations`; by default of the whole table.
        """
        counted = self.populations.cells if cells is None else cells
        return self.populations.outside(counted, self._reached(attribute))

    def drawn_among(self, attribute: str | None = None) -> str:
        """Return in words among whom was drawn for decisions about an attribute, or about any of them."""
        return " and among ".join(sorted(map(in_words, self._reached(attribute))))

    def undecided(self, attribute: str) -> int:
        """Return how many of the persons who could be drawn nobody has decided about in a random draw.

        Before the first decision about an attribute, everybody can still be drawn for it.
        """
        among = self._reached(attribute) or {EVERYBODY}
        cells = self.populations.cells
        could = sum(cells.values()) - self.populations.outside(cells, among)
        return could - len(self.probability.get(attribute, self.not_persons))

    def _reached(self, attribute: str | None) -> frozenset[Among]:
        if attribute is None:
            return frozenset().union(*self.reach.values())
        return self.reach.get(attribute, frozenset())


def read_gold(
    persons: ds.Dataset, attributes: AttributeSchema, decisions: Mapping[str, Sequence[Decision]]
) -> Gold:
    """Find the persons of random decisions in the consolidated table.

    Of several random decisions about one value the last one counts. A later decision by need does not
    replace it, because only some persons are looked at once more. The probability of inclusion is that of
    being decided in any of the draws that the person could come into; see `_Chances`.

    Args:
        persons: The consolidated table.
        attributes: The attributes of the last run.
        decisions: All decisions by shard.
    """
    counts: Counter[str] = Counter()
    random = _random(persons, attributes, decisions, counts)
    rows = persons.to_table(filter=pc.field("shard_id").isin(pa.array(sorted(random), pa.string())))
    rows = rows.sort_by([(name, "ascending") for name in ("shard_id", "frame_key", "person_index")])
    known = {attribute.name: attribute for attribute in attributes}
    found: dict[tuple[int, str], list[Decision]] = {}
    not_persons: dict[int, list[Decision]] = {}
    for decision, row in _places(random, rows):
        attribute = known.get(decision.attribute or "")
        if row is None:
            counts[NOBODY] += 1
        elif decision.kind != "value":
            counts[NO_VALUE] += 1
            if decision.kind == "not_a_person":
                not_persons.setdefault(row, []).append(decision)
        elif attribute is None or not _is_value(decision.value, attribute):
            counts[UNKNOWN] += 1
        else:
            found.setdefault((row, attribute.name), []).append(decision)
    truth: dict[str, dict[int, AttributeValue]] = {}
    about = sorted({row for row, _ in found} | not_persons.keys())
    place = {row: number for number, row in enumerate(about)}
    of_attribute: dict[str, dict[int, list[Decision]]] = {}
    for (row, name), some in found.items():
        truth.setdefault(name, {})[place[row]] = some[-1].value
        of_attribute.setdefault(name, {})[place[row]] = some
        counts[USED] += 1
        counts[REPLACED] += len(some) - 1
    chosen = rows.take(pa.array(about, pa.int64()))
    draws = {one.draw for some in (*found.values(), *not_persons.values()) for one in some if one.draw}
    populations = populations_of(persons, [draw.among for draw in draws])
    cells = populations.cells_of(chosen).to_pylist()
    chances = _Chances(populations, cells)
    nobody = {place[row]: some for row, some in not_persons.items()}
    samples = {name: _sample(made, nobody) for name, made in of_attribute.items()}
    reach = {name: _reach(sample) for name, sample in samples.items()}
    probability: dict[str, dict[int, float]] = {}
    for name, sample in samples.items():
        within = populations.rows_in(cells, reach[name][0])
        probability[name] = {row: one for row, one in chances.of(sample).items() if row in within}
        left_out = truth[name].keys() - within
        counts[USED] -= len(left_out)
        counts[ELSEWHERE] += len(left_out)
        truth[name] = {row: value for row, value in truth[name].items() if row in within}
    return Gold(
        chosen,
        truth,
        probability,
        frozenset(nobody),
        populations,
        {name: reached for name, (reached, _) in reach.items()},
        frozenset(name for name, (_, is_enough) in reach.items() if not is_enough),
        clusters_of(chosen),
        dict(sorted((kind, n) for kind, n in counts.items() if n)),
        any(one.draw is None for some in (*found.values(), *not_persons.values()) for one in some),
        fingerprint_of(sorted(some[-1].decision_id for some in found.values()))[:16],
    )


def _random(
    persons: ds.Dataset,
    attributes: AttributeSchema,
    decisions: Mapping[str, Sequence[Decision]],
    counts: Counter[str],
) -> dict[str, list[Decision]]:
    """Return the random decisions by shard, and count the others."""
    random: dict[str, list[Decision]] = {}
    for shard_id, of_shard in decisions.items():
        counting = in_force(list(of_shard))
        counts[WITHDRAWN] += len(of_shard) - len(counting)
        for decision in counting:
            if decision.detection == MISSED:
                counts[MISSED_PERSON] += 1
            elif decision.sampling != "random":
                counts[BY_NEED] += 1
            elif decision.draw is not None and not is_known(decision.draw.among, persons, attributes):
                counts[BY_ANSWERS] += 1
            else:
                random.setdefault(shard_id, []).append(decision)
    return random


def _sample(
    made: Mapping[int, Sequence[Decision]], not_persons: Mapping[int, Sequence[Decision]]
) -> dict[int, list[Decision]]:
    """Return by row the decisions that belong to the random sample of an attribute.

    A draw in which nobody has decided the attribute is no sample of it, so those who were called no person
    in it would stand alone. Decisions without a draw are taken for those of one draw.

    Args:
        made: By row, decisions about the attribute.
        not_persons: By row, decisions that there is no person.
    """
    draws = {one.draw for some in made.values() for one in some}
    sample = {row: list(some) for row, some in made.items()}
    for row, some in not_persons.items():
        if of_draws := [one for one in some if one.draw in draws]:
            sample.setdefault(row, []).extend(of_draws)
    return sample


def _reach(sample: Mapping[int, Sequence[Decision]]) -> tuple[frozenset[Among], bool]:
    """Return the populations that a `_sample` stands for, and whether these have enough decided persons.

    A few stray decisions among everybody must not make those about one camera stand for all cameras. Without
    enough of any population it is that with the most. Decisions without a draw don't say among whom was
    drawn, and always count.
    """
    decided: defaultdict[Among, set[int]] = defaultdict(set)
    for row, some in sample.items():
        for one in some:
            decided[_among(one)].add(row)
    enough = {among for among, rows in decided.items() if len(rows) >= MIN_LABELS}
    if any(one.draw is None for some in sample.values() for one in some):
        enough.add(EVERYBODY)
    if enough:
        return frozenset(enough), True
    most = max(map(len, decided.values()))
    return frozenset(among for among, rows in decided.items() if len(rows) == most), False


class _Chances:
    """Probabilities with which people have decided about persons.

    Of a draw among N persons in which people have decided n, each person of the population was decided with
    probability n/N, because those decided first are a random part of the draw. Different draws are
    independent. So a person was decided in one of them with probability 1 - (1 - n/N)(1 - n'/N')...

    Of draws that aren't recorded, by earlier versions, only the recorded probability of the drawn persons is
    known, of which the largest counts, as of a draw that was enlarged. Beside recorded draws they are taken
    for one draw among everybody, with the largest probability of all.

    Args:
        populations: Among whom persons were drawn.
        cells: [n] the cell of each person.
    """

    def __init__(self, populations: Populations, cells: Sequence[str]) -> None:
        self._populations = populations
        self._cells = cells

    def of(self, sample: Mapping[int, Sequence[Decision]]) -> dict[int, float]:
        """Return the probability by row of a `_sample`: 0 of a person who has left all populations since."""
        decided: defaultdict[Draw, set[int]] = defaultdict(set)
        for row, some in sample.items():
            for decision in some:
                if decision.draw is not None:
                    decided[decision.draw].add(row)
        shares = {
            draw: min(1.0, len(rows) / max(1, self._populations.size(draw.among)))
            for draw, rows in decided.items()
        }
        # Persons of recorded draws could have come into those of earlier versions, too.
        unrecorded = max(map(_unrecorded, sample.values()), default=0.0) if shares else None
        return {
            row: self._chance(
                self._cells[row], _unrecorded(some) if unrecorded is None else unrecorded, shares
            )
            for row, some in sample.items()
        }

    def _chance(self, cell: str, unrecorded: float, shares: Mapping[Draw, float]) -> float:
        missed = 1 - unrecorded
        for draw, share in shares.items():
            if self._populations.contains(cell, draw.among):
                missed *= 1 - share
        return 1 - missed


def _unrecorded(made: Sequence[Decision]) -> float:
    """Return the largest probability of decisions without a draw, 0 if there are none."""
    return max((one.probability or 1 for one in made if one.draw is None), default=0.0)


def _among(decision: Decision) -> Among:
    return EVERYBODY if decision.draw is None else decision.draw.among


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
