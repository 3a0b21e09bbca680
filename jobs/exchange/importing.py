"""Turn what a tool's files say into decisions: what differs from what was exported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from actors.attribute import AttributeValue
from actors.boxes import box_ious
from actors.corrections.decision import MISSED, Decision, in_force
from actors.corrections.decision_log import append, read_decisions
from actors.corrections.draw import Draw
from actors.corrections.matching import match_boxes
from actors.errors import ConfigError
from actors.storage.object_store import ObjectStore
from jobs.exchange.exported import EXPORTED, Exported, ExportedFrame, ExportedPerson
from jobs.exchange.seen import SeenFrame, SeenPerson, Unread
from jobs.exchange.tools import TOOLS, Tool
from jobs.run.erased_decisions import without_erased

_MOVED_PX = 0.1
"""A side of a box that moves less was only rounded: CVAT writes hundredths of a pixel, others percents."""


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
    tool = TOOLS.get(exported.format)
    if tool is None:
        raise ConfigError(
            f"--from {folder.uri}: {EXPORTED} is of the format {exported.format}, which this version doesn't "
            "know"
        )
    names = [info.path for info in folder.list(sub_folders=False)]
    saved = [name for name in names if name.endswith(tool.suffix) and name != EXPORTED]
    if not saved:
        raise ConfigError(f"--from {folder.uri}: there is no file of {tool.name} (*{tool.suffix}) in it")
    found = compare(exported, _frames(folder, saved, tool, exported), reviewer, read_decisions(store))
    left = without_erased(store, found.decisions)
    found.counts["erased"] = len(found.decisions) - len(left)
    found.decisions = left
    append(store, found.decisions)
    return found


def _frames(folder: ObjectStore, names: Sequence[str], tool: Tool, exported: Exported) -> Iterator[SeenFrame]:
    """Yield the frames of the files that a tool has saved, then those that only exported files have."""
    contents = {name: folder.read(name) for name in names}
    untouched = [n for n in names if sha256(contents[n]).hexdigest() == exported.files.get(n)]
    seen = set()
    for name in sorted(names, key=lambda name: name in untouched):
        for frame in tool.read(folder.uri_of(name), contents[name], exported):
            if name not in untouched or frame.file_name not in seen:
                seen.add(frame.file_name)
                yield replace(frame, is_saved=name not in untouched)


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

    A value that was left as it was is no decision, but for persons that were drawn at random: what an audit
    finds right counts as much as what it finds wrong. A file that nobody has saved confirms nothing.

    Args:
        exported: What was exported.
        seen: What the files say.
        reviewer: Who has decided.
        earlier: All decisions of the output by shard, so that none is imported twice.
    """
    found = Imported()
    frames = {frame.file_name: frame for frame in exported.frames}
    reviews = _reviews(seen, frames, found)
    found.problems += dict.fromkeys(review.remark for review in reviews if review.remark)
    several = len({review.reviewer for review in reviews}) > 1
    for review in reviews:
        named = f"{reviewer}/{review.reviewer}" if several and review.reviewer else reviewer
        frame = frames[review.file_name]
        place = _Place(
            exported.format, named, review.reviewed_at, frame, exported.draw, found, review.is_saved
        )
        _compare_frame(place, review.persons)
    reviewed = {review.file_name for review in reviews}
    found.counts["frames"] = len(reviewed)
    found.counts["persons"] = sum(len(frames[name].persons) for name in reviewed)
    found.counts["frames_without_file"] = len(frames) - len(reviewed)
    known = {_content(d) for decisions in earlier.values() for d in _newest(in_force(list(decisions)))}
    before = [decision for decisions in earlier.values() for decision in decisions]
    # A review that says when it was made may have been followed by others, and is the same one all the same.
    # What is only confirmed must not come back either, after somebody has decided otherwise.
    known_at = {(_content(d), d.decided_at) for d in before}
    confirmed = {_content(d) for d in before if _confirms(d)}
    new = [
        d
        for d in found.decisions
        if _content(d) not in known
        and (_content(d), d.decided_at) not in known_at
        and not (_confirms(d) and _content(d) in confirmed)
    ]
    found.counts["known"] = len(found.decisions) - len(new)
    found.decisions = new
    return found


def _reviews(
    seen: Iterable[SeenFrame], frames: Mapping[str, ExportedFrame], found: Imported
) -> list[SeenFrame]:
    """Return one review by reviewer and frame: the newest, or the first one if they don't say when."""
    reviews: dict[tuple[str, str | None], SeenFrame] = {}
    for file in seen:
        key = (file.file_name, file.reviewer)
        other = reviews.get(key)
        if file.file_name not in frames:
            found.problems.append(f"{file.file_name}: it was not exported, so it is left out")
        elif other is None:
            reviews[key] = file
        elif other.reviewed_at is None or file.reviewed_at is None:
            found.problems.append(f"{file.file_name}: it is in two files; the first one counts")
        elif other.reviewed_at < file.reviewed_at:
            reviews[key] = file
    return list(reviews.values())


@dataclass(frozen=True, slots=True)
class _Place:
    """Where regions are compared, and where the differences go.

    Attributes:
        is_saved: Whether somebody has saved what is compared.
    """

    tool: str
    reviewer: str
    reviewed_at: datetime | None
    frame: ExportedFrame
    draw: Draw | None
    found: Imported
    is_saved: bool

    def confirms(self, person: ExportedPerson, attribute: str) -> bool:
        """Return whether a value that was left as it was is a decision."""
        return self.is_saved and person.sampling == "random" and attribute not in person.unanswered

    def decide(self, person: ExportedPerson, kind: str, **content: Any) -> None:
        chosen: dict[str, Any] = {"sampling": person.sampling, "probability": person.probability}
        if person.sampling == "random":
            chosen["draw"] = self.draw
        self._add(bbox=person.bbox, detection=person.detection, kind=kind, **chosen, **content)

    def missed(self, seen: SeenPerson) -> None:
        self.found.counts["new"] += 1
        self._add(bbox=seen.box, detection=MISSED, kind="missed_person")
        for name, value in self.readable(seen):
            if value is not None:
                self.found.counts["values_of_new"] += 1
                self._add(bbox=seen.box, detection=MISSED, kind="value", attribute=name, value=value)

    def readable(
        self, seen: SeenPerson, person: ExportedPerson | None = None
    ) -> Iterator[tuple[str, AttributeValue]]:
        for name, value in seen.values.items():
            if isinstance(value, Unread):
                # The attribute had this value in an earlier version of the settings.
                if person is not None and value.text == person.values.get(name):
                    continue
                self.found.counts["unread"] += 1
                who = seen.person_id or "a new person"
                self.found.problems.append(
                    f"{self.frame.file_name}: {who}: {name}: {value.text!r} is none of its values, so it is "
                    f"left out; choose {value.choices}"
                )
            else:
                yield name, value

    def is_moved(self, region: SeenPerson, person: ExportedPerson) -> bool:
        shown = TOOLS[self.tool].shown_box(person.box, self.frame)
        sides = (self.frame.width, self.frame.height) * 2
        return any(
            abs(now - was) * side > _MOVED_PX for now, was, side in zip(region.box, shown, sides, strict=True)
        )

    def _add(self, **content: Any) -> None:
        now = datetime.now(UTC)
        self.found.decisions.append(
            Decision(
                reviewer=self.reviewer,
                tool=self.tool,
                decided_at=min(self.reviewed_at or now, now),
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
        if number not in pairs:
            place.found.counts["deleted"] += 1
            place.decide(person, "not_a_person")
            continue
        region = regions[pairs[number]]
        if region.not_a_person:
            place.found.counts["not_a_person"] += 1
            place.decide(person, "not_a_person")
            continue
        if place.is_moved(region, person):
            place.found.counts["moved"] += 1
            place.decide(person, "box", new_bbox=region.box)
        for name, value in place.readable(region, person):
            was = person.values.get(name)
            is_changed = value != was or type(value) is not type(was)
            if is_changed or place.confirms(person, name):
                place.found.counts["values" if is_changed else "confirmed"] += 1
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
    """Return the last decision about each attribute, box and existence of a person, in each draw."""
    return {(d.frame_key, d.bbox, d.detection, d.kind, d.attribute, d.draw): d for d in decisions}.values()


def _confirms(decision: Decision) -> bool:
    """Return whether a decision leaves a value as it was."""
    return decision.kind == "value" and _typed(decision.value) == _typed(decision.replaces)


def _content(decision: Decision) -> tuple[Any, ...]:
    """Return what a decision says, without who said it and when.

    About a person that was drawn at random it is said anew, or the sample would lack those decided before.
    """
    about = (decision.shard_id, decision.frame_key, decision.bbox, decision.detection)
    said = (decision.kind, decision.attribute, _typed(decision.value), decision.new_bbox)
    return (*about, *said, decision.sampling, decision.draw)


def _typed(value: AttributeValue) -> tuple[str, AttributeValue]:
    return (type(value).__name__, value)
