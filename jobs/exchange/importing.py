"""Turn what a tool's files say into decisions: what differs from what was exported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from actors.attribute import AttributeValue
from actors.corrections.decision import MISSED, Decision, in_force
from actors.corrections.decision_log import append, read_decisions
from actors.corrections.matching import box_ious, match_boxes
from actors.errors import ConfigError
from actors.storage.object_store import ObjectStore
from jobs.exchange import via
from jobs.exchange.exported import EXPORTED, Exported, ExportedFrame, ExportedPerson
from jobs.exchange.seen import SeenFrame, SeenPerson, Unread


@dataclass(slots=True)
class Imported:
    """The result of a comparison.

    Attributes:
        decisions: What was decided.
        counts: How many frames and persons were seen, and of each kind of difference.
        problems: What could not be read, for the user.
    """

    decisions: list[Decision] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def import_persons(store: ObjectStore, folder: ObjectStore, reviewer: str) -> Imported:
    """Append what a reviewer has decided in the files of an export.

    Args:
        store: The output.
        folder: The folder of the export, with the tool's files as the reviewer saved them.
        reviewer: Who has decided.

    Raises:
        ConfigError: The folder has no export, or a file is not the tool's.
        OutputError: A decision of the output can't be read.
        OSError: The folder can't be read, or the output can't be written.
    """
    exported = Exported.read(folder)
    names = [info.path for info in folder.list(sub_folders=False)]
    projects = [name for name in names if name.endswith(".json") and name != EXPORTED]
    if not projects:
        raise ConfigError(f"--from {folder.uri}: there is no project of VIA in it")
    seen = chain.from_iterable(
        via.read_project(folder.uri_of(name), folder.read(name), exported) for name in projects
    )
    found = compare(exported, seen, reviewer, read_decisions(store))
    append(store, found.decisions)
    return found


def compare(
    exported: Exported,
    seen: Iterable[SeenFrame],
    reviewer: str,
    earlier: Mapping[str, Sequence[Decision]],
) -> Imported:
    """Return what a reviewer has decided.

    A region is known by its person id, or by its box where the id was lost. A region that is a copy, or was
    drawn where nobody was, is a person whom the detector has missed; a person without a region is none.
    Frames that the files don't have are left alone.

    Args:
        exported: What was exported.
        seen: What the files say.
        reviewer: Who has decided.
        earlier: All decisions of the output by shard, so that none is imported twice.
    """
    found = Imported()
    frames = {frame.file_name: frame for frame in exported.frames}
    done: set[str] = set()
    for file in seen:
        frame = frames.get(file.file_name)
        if frame is None:
            found.problems.append(f"{file.file_name}: it was not exported, so it is left out")
            continue
        if file.file_name in done:
            found.problems.append(f"{file.file_name}: it is in two files; the first one counts")
            continue
        done.add(file.file_name)
        _compare_frame(_Place(exported.format, reviewer, frame, found), file.persons)
    found.counts["frames"] = len(done)
    found.counts["frames_without_file"] = len(frames) - len(done)
    known = {_content(d) for decisions in earlier.values() for d in _newest(in_force(list(decisions)))}
    new = [decision for decision in found.decisions if _content(decision) not in known]
    found.counts["known"] = len(found.decisions) - len(new)
    found.decisions = new
    return found


@dataclass(frozen=True, slots=True)
class _Place:
    """Where regions are compared, and where the differences go."""

    tool: str
    reviewer: str
    frame: ExportedFrame
    found: Imported

    def decide(self, person: ExportedPerson, kind: str, **content: Any) -> None:
        chosen = {"sampling": person.sampling, "probability": person.probability}
        self._add(bbox=person.bbox, detection=person.detection, kind=kind, **chosen, **content)

    def missed(self, seen: SeenPerson) -> None:
        self.found.counts["new"] += 1
        self._add(bbox=seen.box, detection=MISSED, kind="missed_person")
        for name, value in self.readable(seen):
            if value is not None:
                self._add(bbox=seen.box, detection=MISSED, kind="value", attribute=name, value=value)

    def readable(self, seen: SeenPerson) -> Iterator[tuple[str, AttributeValue]]:
        for name, value in seen.values.items():
            if isinstance(value, Unread):
                self.found.counts["unread"] += 1
                who = seen.person_id or "a new person"
                self.found.problems.append(
                    f"{self.frame.file_name}: {who}: {name}: {value.text!r} is none of its values"
                )
            else:
                yield name, value

    def _add(self, **content: Any) -> None:
        self.found.decisions.append(
            Decision(
                reviewer=self.reviewer,
                tool=self.tool,
                shard_id=self.frame.shard_id,
                frame_key=self.frame.frame_key,
                **content,
            )
        )


def _compare_frame(place: _Place, regions: Sequence[SeenPerson]) -> None:
    pairs = _pairs(place, regions)
    for position, region in enumerate(regions):
        if position not in pairs.values() and not region.not_a_person:
            place.missed(region)
    for number, person in enumerate(place.frame.persons):
        place.found.counts["persons"] += 1
        if number not in pairs:
            place.found.counts["deleted"] += 1
            place.decide(person, "not_a_person")
            continue
        region = regions[pairs[number]]
        if region.not_a_person:
            place.found.counts["not_a_person"] += 1
            place.decide(person, "not_a_person")
            continue
        if region.box != via.shown_box(person.box, place.frame):
            place.found.counts["moved"] += 1
            place.decide(person, "box", new_bbox=region.box)
        for name, value in place.readable(region):
            if value != person.values.get(name) or type(value) is not type(person.values.get(name)):
                place.found.counts["values"] += 1
                was = person.values.get(name)
                place.decide(person, "value", attribute=name, value=value, replaces=was)


def _pairs(place: _Place, regions: Sequence[SeenPerson]) -> dict[int, int]:
    """Return the position of each person's region, by the position of the person in the frame."""
    persons = place.frame.persons
    by_id: dict[str, list[int]] = {}
    for position, region in enumerate(regions):
        if region.person_id is not None:
            by_id.setdefault(region.person_id, []).append(position)
    pairs: dict[int, int] = {}
    for number, person in enumerate(persons):
        copies = by_id.get(person.person_id, [])
        if copies:
            ious = box_ious([person.box], [regions[position].box for position in copies])[0]
            pairs[number] = copies[int(ious.argmax())]
            place.found.counts["copies"] += len(copies) - 1
    left = [number for number in range(len(persons)) if number not in pairs]
    known = {person.person_id for person in persons}
    lost = [p for p, r in enumerate(regions) if r.person_id is None or r.person_id not in known]
    for number, position in match_boxes(
        [persons[number].box for number in left], [regions[position].box for position in lost]
    ).items():
        pairs[left[number]] = lost[position]
        place.found.counts["found_by_box"] += 1
    return pairs


def _newest(decisions: Sequence[Decision]) -> Iterable[Decision]:
    """Return the last decision about each attribute, box and existence of a person."""
    return {(d.frame_key, d.bbox, d.detection, d.kind, d.attribute): d for d in decisions}.values()


def _content(decision: Decision) -> tuple[Any, ...]:
    """Return what a decision says, without who said it and when."""
    value = (type(decision.value).__name__, decision.value)
    about = (decision.shard_id, decision.frame_key, decision.bbox, decision.detection)
    return (*about, decision.kind, decision.attribute, value, decision.new_bbox)
