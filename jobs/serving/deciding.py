"""What the reviewer decides on the page becomes decisions of the output."""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import duckdb
from pydantic import BaseModel, ConfigDict, Field

from actors.attribute import Attribute, AttributeValue, same_value
from actors.corrections.decision import Box, Decision, in_force
from actors.corrections.decision_log import append, read_decisions
from actors.corrections.draw import Draw
from actors.corrections.final_values import IS_PERSON, SOURCE
from actors.corrections.matching import as_box
from actors.corrections.settings import ABSTAINED, HUMAN
from actors.errors import ConfigError
from actors.storage.commit_record import read_record
from actors.storage.object_store import ObjectStore
from jobs.exchange.person_queries import KEPT
from jobs.run.erased_decisions import without_erased
from jobs.serving.person_table import PersonTable
from jobs.serving.view import View

TOOL = "serve"
_MOST_PERSONS = 5_000
"""Persons that one action may be about."""


class Action(BaseModel):
    """What the reviewer does to some persons.

    Attributes:
        kind: `value` sets an attribute, `confirm` says that all final values are right, `not_a_person` and
            `person` say whether the detection shows a person, `box` gives the person another box.
        ids: The persons.
        attribute: The attribute, for a value.
        value: Its value. None says that it can't be told.
        box: The new box, normalised to 0..1.
        view: What the page showed, which says how the persons were chosen.
        table: Name of the table whose ids these are, which must still be the one that is shown. None stands
            for any.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Literal["value", "confirm", "not_a_person", "person", "box"]
    ids: list[int] = Field(min_length=1, max_length=_MOST_PERSONS)
    attribute: str | None = None
    value: AttributeValue | float = None
    box: list[float] | None = Field(None, min_length=4, max_length=4)
    view: View = Field(default_factory=View, strict=False)
    table: str | None = None


@dataclass(frozen=True, slots=True)
class Drawn:
    """How persons were drawn at random.

    Attributes:
        draw: The draw.
        probability: Probability with which each of them was drawn.
    """

    draw: Draw
    probability: float


@dataclass(slots=True)
class Progress:
    """How the review of a queue goes: persons that were decided in it, and those that were changed."""

    decided: set[tuple[Any, ...]] = field(default_factory=set)
    changed: set[tuple[Any, ...]] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Decided:
    """What an action has done.

    Attributes:
        ids: The persons that it is about.
        action: Number by which it can be taken back, or None if all was decided before.
        decisions: Number of decisions that were appended.
    """

    ids: list[int]
    action: int | None
    decisions: int


class DecisionDesk:
    """The decisions of an output, and those that are made on the page.

    Methods block, and may be called from several threads.

    Args:
        store: The output.
        reviewer: Who decides.
    """

    def __init__(self, store: ObjectStore, reviewer: str) -> None:
        self._store = store
        self.reviewer = reviewer
        self._lock = threading.Lock()
        self._detections: dict[str, str] = {}
        self._actions: dict[int, list[Decision]] = {}
        self._numbers = itertools.count(1)
        self._by_shard: dict[str, list[Decision]] = {}

    def read(self, table: PersonTable) -> None:
        """Read all decisions of the output, and apply them to the persons.

        Raises:
            OutputError: A decision is not one of this version.
            OSError: The output can't be read.
        """
        with self._lock:
            before = self._by_shard
            self._by_shard = read_decisions(self._store)
            self._detections.clear()
            table.apply(
                {shard_id: self._by_shard.get(shard_id, []) for shard_id in {*before, *self._by_shard}}
            )

    def decide(self, table: PersonTable, action: Action, drawn: Drawn | None) -> Decided:
        """Append the decisions of an action, and apply them to the persons.

        Args:
            table: The persons.
            action: What the reviewer did.
            drawn: How the persons were drawn, or None if they were chosen by need.

        Raises:
            ConfigError: The action makes no sense for one of the persons, one was erased, or the ids are of
                another table; nothing is decided.
            OSError: The output can't be written; nothing is decided.
        """
        with self._lock:
            if action.table not in (None, table.name):
                raise ConfigError("the persons have other numbers since a consolidation; reload the page")
            rows = table.rows(action.ids)
            if len(rows) < len(set(action.ids)):
                raise ConfigError("a person is no longer in the table; reload the page")
            if any(row["verdict"] != KEPT for row in rows):
                raise ConfigError("the region of interest has dropped this detection, so it has no values")
            decisions = [made for row in rows for made in self._of_person(table, action, row, drawn)]
            # The table may be older than an erasure.
            if len(without_erased(self._store, decisions)) < len(decisions):
                raise ConfigError("a person was erased since the page was loaded; reload the page")
            self._append(table, decisions)
            number = next(self._numbers) if decisions else None
            if number is not None:
                self._actions[number] = decisions
            return Decided([row["id"] for row in rows], number, len(decisions))

    def undo(self, table: PersonTable, action: int) -> list[int]:
        """Withdraw the decisions of an action of this session.

        Args:
            table: The persons.
            action: The number of the action.

        Returns:
            The ids of the persons that it was about.

        Raises:
            ConfigError: There is no such action, or it was taken back.
            OSError: The output can't be written; nothing is taken back.
        """
        with self._lock:
            if action not in self._actions:
                raise ConfigError("this can't be taken back, or was already; reload the page")
            decisions = self._actions[action]
            self._append(table, without_erased(self._store, map(self._reversed, decisions)))
            del self._actions[action]
            return sorted(set(table.find(decisions).values()))

    def history(self, table: PersonTable, person: Mapping[str, Any]) -> list[tuple[Decision, bool]]:
        """Return all decisions about a person, the last one first, and whether each one counts."""
        with self._lock:
            decisions = [
                decision
                for decision in self._by_shard.get(person["shard_id"], [])
                if decision.frame_key == person["frame_key"]
            ]
            counting = {decision.decision_id for decision in in_force(decisions)}
            place = table.find(decisions)
        own = [decision for decision in decisions if place.get(decision.decision_id) == person["id"]]
        own.sort(key=lambda decision: (decision.decided_at, decision.decision_id), reverse=True)
        return [(decision, decision.decision_id in counting) for decision in own]

    def progress(self) -> dict[str, Progress]:
        """Return how the review of each queue goes, by all decisions of the output that count."""
        found: defaultdict[str, Progress] = defaultdict(Progress)
        with self._lock:
            counting = [d for decisions in self._by_shard.values() for d in in_force(decisions)]
        for decision in counting:
            if decision.queue is None:
                continue
            person = (decision.shard_id, decision.frame_key, decision.bbox, decision.detection)
            found[decision.queue].decided.add(person)
            if decision.kind != "value" or not same_value(decision.value, decision.replaces):
                found[decision.queue].changed.add(person)
        return dict(found)

    def decided_persons(self, table: PersonTable, draw: Draw) -> set[int]:
        """Return the ids of the persons that were decided in a random draw."""
        with self._lock:
            counting = [d for decisions in self._by_shard.values() for d in in_force(decisions)]
        return set(table.find(decision for decision in counting if _is_of(decision, draw)).values())

    def open_attributes(
        self, table: PersonTable, rows: Sequence[Mapping[str, Any]], draw: Draw
    ) -> dict[int, list[str]]:
        """Return by id which attributes of drawn persons a confirmation leaves undecided, if any.

        No annotator has given a value, or it is withheld, so only a decision about the attribute settles it.
        """
        with self._lock:
            decided = self._decided_in(table, {row["shard_id"] for row in rows}, draw)
        found = {}
        for row in rows:
            settled = decided.get(row["id"], set())
            names = [name for name in table.schema.names if _is_open(row, name) and name not in settled]
            if names and row[IS_PERSON] is not False and row["verdict"] == KEPT:
                found[row["id"]] = names
        return found

    def _append(self, table: PersonTable, decisions: Sequence[Decision]) -> None:
        append(self._store, decisions)
        for decision in decisions:
            self._by_shard.setdefault(decision.shard_id, []).append(decision)
        shards = {decision.shard_id for decision in decisions}
        try:
            table.apply({shard_id: self._by_shard[shard_id] for shard_id in shards})
        except duckdb.IOException:
            # A consolidation has deleted the table's files. The decisions are saved, so the action must not
            # fail, or it would be done once more with the next table.
            table.is_outdated = True

    def _of_person(
        self, table: PersonTable, action: Action, row: Mapping[str, Any], drawn: Drawn | None
    ) -> list[Decision]:
        about: dict[str, Any] = {
            "reviewer": self.reviewer,
            "tool": TOOL,
            "shard_id": row["shard_id"],
            "frame_key": row["frame_key"],
            "bbox": as_box(row["bbox"]),
            "detection": self._detection(row["shard_id"]),
            "sampling": "need" if drawn is None else "random",
            "probability": None if drawn is None else drawn.probability,
            "draw": None if drawn is None else drawn.draw,
            "queue": None if action.view.queue == "all" else action.view.queue,
        }
        if action.kind == "value":
            attribute = action.attribute or ""
            value = _checked(table, attribute, action.value)
            return [
                Decision(**about, kind="value", attribute=attribute, value=value, replaces=row[attribute])
            ]
        is_nobody = row[IS_PERSON] is False
        if action.kind == "not_a_person" or (action.kind == "confirm" and is_nobody and drawn is not None):
            # Who was called no person before is so in an audit only by a decision of its own.
            said = is_nobody if drawn is None else self._is_nobody_in(table, row, drawn.draw)
            return [] if said else [Decision(**about, kind="not_a_person")]
        if action.kind == "confirm":
            settled = self._settled(table, row, about["draw"])
            return [
                Decision(**about, kind="value", attribute=name, value=row[name], replaces=row[name])
                for name in table.schema.names
                if not _is_open(row, name) and name not in settled
            ]
        if action.kind == "person":
            return [self._withdrawal(made) for made in self._not_a_person(table, row)]
        return [Decision(**about, kind="box", new_bbox=_box(action.box))]

    def _settled(self, table: PersonTable, row: Mapping[str, Any], draw: Draw | None) -> set[str]:
        """Return the attributes of a person that need no confirmation, because people have decided them.

        In an audit only what was decided in it counts, or the sample would lack those decided before.
        """
        if draw is None:
            return {name for name in table.schema.names if row[f"{name}_{SOURCE}"] == HUMAN}
        return self._decided_in(table, {row["shard_id"]}, draw).get(row["id"], set())

    def _decided_in(self, table: PersonTable, shard_ids: Collection[str], draw: Draw) -> dict[int, set[str]]:
        """Return by id the attributes that people have decided in a random draw."""
        counting = [d for shard_id in shard_ids for d in in_force(self._by_shard.get(shard_id, []))]
        decisions = [d for d in counting if d.attribute is not None and _is_of(d, draw)]
        place = table.find(decisions)
        found: defaultdict[int, set[str]] = defaultdict(set)
        for decision in decisions:
            if decision.decision_id in place and decision.attribute is not None:
                found[place[decision.decision_id]].add(decision.attribute)
        return dict(found)

    def _is_nobody_in(self, table: PersonTable, row: Mapping[str, Any], draw: Draw) -> bool:
        """Return whether people have called a detection no person in a random draw."""
        return any(_is_of(decision, draw) for decision in self._not_a_person(table, row))

    def _not_a_person(self, table: PersonTable, row: Mapping[str, Any]) -> list[Decision]:
        decisions = [d for d in in_force(self._by_shard.get(row["shard_id"], [])) if d.kind == "not_a_person"]
        place = table.find(decisions)
        return [decision for decision in decisions if place.get(decision.decision_id) == row["id"]]

    def _reversed(self, decision: Decision) -> Decision:
        if decision.kind != "withdrawal":
            return self._withdrawal(decision)
        # A withdrawal can't be withdrawn, so what it withdrew is decided once more.
        (first,) = (d for d in self._by_shard[decision.shard_id] if d.decision_id == decision.withdraws)
        made = first.model_dump(exclude={"decision_id", "decided_at"}) | {
            "reviewer": self.reviewer,
            "tool": TOOL,
        }
        return Decision(**made)

    def _withdrawal(self, decision: Decision) -> Decision:
        return Decision(
            reviewer=self.reviewer,
            tool=TOOL,
            shard_id=decision.shard_id,
            frame_key=decision.frame_key,
            bbox=decision.bbox,
            detection=decision.detection,
            kind="withdrawal",
            withdraws=decision.decision_id,
        )

    def _detection(self, shard_id: str) -> str:
        if shard_id not in self._detections:
            found = read_record(self._store, shard_id)
            if found is None:
                raise ConfigError(f"shard {shard_id} is no longer committed; run shopframe consolidate")
            self._detections[shard_id] = found[0].detection
        return self._detections[shard_id]


def _is_of(decision: Decision, draw: Draw) -> bool:
    """Return whether a decision was made in a draw. Those of earlier versions don't say in which one."""
    return decision.draw == draw or (decision.draw is None and decision.queue == "audit")


def _is_open(row: Mapping[str, Any], attribute: str) -> bool:
    """Return whether a person has no value of an attribute that could be confirmed."""
    return row[f"{attribute}_{SOURCE}"] in (None, ABSTAINED)


def _checked(table: PersonTable, name: str, value: AttributeValue | float) -> AttributeValue:
    attribute = next((a for a in table.schema if a.name == name), None)
    if attribute is None:
        raise ConfigError(f"there is no attribute {name}; there are {', '.join(table.schema.names)}")
    # None always says that the value can't be told.
    if value is None:
        return None
    found = [allowed for allowed in attribute.values if same_value(value, allowed)]
    if not found:
        raise ConfigError(f"{name}: {value!r} is none of its values{_values_in_words(attribute)}")
    return found[0]


def _values_in_words(attribute: Attribute) -> str:
    if attribute.type != "integer":
        return ""
    given = [value for value in attribute.values if value is not None]
    return f", which are the whole numbers from {given[0]} to {given[-1]}"


def _box(box: Sequence[float] | None) -> Box:
    if box is None:
        raise ConfigError("box: missing")
    x1, y1, x2, y2 = (min(1.0, max(0.0, float(value))) for value in box)
    if not (x1 < x2 and y1 < y2):
        raise ConfigError("box: it has no area in the frame")
    return (x1, y1, x2, y2)
