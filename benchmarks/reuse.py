"""Measure what it saves to ask once about one person, and what it costs in accuracy.

The frames are the demo's sequences, in which people stand, walk, turn round, cross each other's way and wear
the same clothes, and whose truth is known. The demo's detector finds the people. The demo's SmolVLM is asked
about every crop, and then about one of each group, whose answer the others inherit.

    python -m benchmarks.reuse [--frames 960] [--seed 7000] [--within-s 10] [--quick]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from actors.boxes import SAME_PERSON_IOU, box_ious
from actors.detect.settings import resolve_detector
from actors.detect.shard_detector import ShardDetector
from actors.read.listing import list_shards
from actors.reuse.settings import ReuseSettings
from actors.shard_block import ShardBlock, ShardTask
from actors.smolvlm.settings import resolve_smolvlm
from actors.smolvlm.shard_annotator import ANNOTATOR, ShardAnnotator
from actors.storage.object_store import ObjectStore
from benchmarks.figures import Figures
from demo.scenes import SHARDS_FOLDER, ScenePerson, generate_sequences, write_shards
from demo.training.demo_settings import demo_schema, demo_settings

WANTED_TIMES, WANTED_LOSS = 2.5, 0.5
"""Times fewer questions at least, and points of accuracy of any attribute that may be lost for them."""

_FRAMES_PER_SHARD = 48
_OLDER_YEARS = 5
"""Difference up to which an exact age counts as right."""


@dataclass(frozen=True, slots=True)
class Compared:
    """The answers about the persons with a known truth, asked singly and by groups.

    Attributes:
        truth: The true person of each detected one, or None for a detection of nobody.
        alone: Rows of answers where everybody was asked about.
        shared: Rows of answers where groups share one.
    """

    truth: list[ScenePerson | None]
    alone: list[dict[str, Any]]
    shared: list[dict[str, Any]]

    @property
    def times(self) -> float:
        """How many times fewer questions were asked."""
        inherited = [row for row in self.shared if row["status"] == "inherited"]
        return len(self.shared) / (len(self.shared) - len(inherited))

    def right(self, attribute: str, rows: Sequence[dict[str, Any]]) -> float:
        """Return the percentage of right answers."""
        right = [
            _is_right(attribute, row[attribute], person)
            for row, person in zip(rows, self.truth, strict=True)
            if person is not None
        ]
        return 100 * sum(right) / len(right)

    def groups(self) -> list[set[str]]:
        """Return the true persons in each group."""
        found: dict[tuple[str, str], set[str]] = {}
        for row, person in zip(self.shared, self.truth, strict=True):
            if row["reuse_group"] is not None:
                members = found.setdefault((row["shard_id"], row["reuse_group"]), set())
                members |= set() if person is None else {person.track_id}
        return list(found.values())


def _is_right(attribute: str, answer: Any, person: ScenePerson) -> bool:
    truth = person.attributes[attribute]
    if attribute == "exact_age":
        return answer is not None and abs(answer - int(truth)) <= _OLDER_YEARS
    return bool(answer == truth)


def compare(seed: int, frames: int, within_s: float, folder: Path) -> Compared:
    """Detect the people of some sequences, and ask about them in both ways."""
    settings, schema = demo_settings(), demo_schema()
    write_shards(folder, seed, frames, _FRAMES_PER_SHARD, sequences=True)
    truth = {scene.key: scene.persons for scene in generate_sequences(seed, frames)}
    detector = ShardDetector(
        input=settings.input,
        storage=settings.storage,
        detector=settings.detector,
        resolved=resolve_detector(settings.detector, settings.storage),
        roi=settings.roi.model_copy(update={"static": ()}),
        crops=settings.crops,
        max_failed_frames=0,
    )
    resolved = resolve_smolvlm(settings.smolvlm, schema)
    store = ObjectStore(str(folder / "output"))
    found = Compared([], [], [])
    source = settings.input.model_copy(update={"uri": str(folder / SHARDS_FOLDER)})
    for shard in list_shards(source, settings.storage):
        block = detector.detect(ShardBlock(ShardTask(shard, "detect", recall=False)))
        found.truth.extend(_truth_of(block.kept_persons(), truth))
        for rows, reuse in ((found.alone, ReuseSettings()), (found.shared, ReuseSettings(reuse=within_s))):
            annotator = ShardAnnotator(settings.smolvlm, resolved, schema, 1, store, reuse)
            rows.extend(annotator.annotate(block).annotations[ANNOTATOR].to_pylist())
    return found


def _truth_of(persons: pa.Table, truth: dict[str, tuple[ScenePerson, ...]]) -> list[ScenePerson | None]:
    matched: list[ScenePerson | None] = []
    for row in persons.select(["frame_key", "bbox"]).to_pylist():
        people = truth[row["frame_key"]]
        ious = box_ious([row["bbox"]], [person.bbox for person in people])
        best = int(ious.argmax()) if ious.size else 0
        matched.append(people[best] if ious.size and ious[0, best] >= SAME_PERSON_IOU else None)
    return matched


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reuse", description=__doc__)
    parser.add_argument("--frames", type=int, default=960)
    parser.add_argument("--seed", type=int, default=7000)
    parser.add_argument("--within-s", type=float, default=10)
    parser.add_argument("--quick", action="store_true", help="look at 48 frames only, to check that it runs")
    given = parser.parse_args()
    frames = _FRAMES_PER_SHARD if given.quick else given.frames
    with tempfile.TemporaryDirectory() as folder:
        found = compare(given.seed, frames, given.within_s, Path(folder))
    known = sum(person is not None for person in found.truth)
    print(f"{frames} frames of sequences, {len(found.alone)} kept persons, {known} of known truth")
    print(f"{'attribute':18} {'asked':>7} {'shared':>7} {'loss':>6}   accuracy in percent, loss in points")
    losses: dict[str, float] = {}
    for name in demo_schema().names:
        alone, shared = found.right(name, found.alone), found.right(name, found.shared)
        losses[name] = alone - shared
        print(f"{name:18} {alone:7.2f} {shared:7.2f} {losses[name]:6.2f}")
    figures = Figures("reuse", given.quick)
    figures.add("times fewer questions", found.times, "times", at_least=WANTED_TIMES)
    worst = max(losses, key=lambda name: losses[name])
    figures.add(
        "largest loss of accuracy of an attribute", losses[worst], "points", at_most=WANTED_LOSS, note=worst
    )
    groups = found.groups()
    mixed = sum(len(members) > 1 for members in groups)
    figures.add("groups that mix two people", mixed, note=f"of {len(groups)}")


if __name__ == "__main__":
    _main()
