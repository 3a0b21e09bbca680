"""The persons of an output with their final values, frame by frame, for a data set."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import duckdb

from actors.attribute import AttributeValue
from actors.attributes import AttributeSchema
from actors.corrections.decision import MISSED, Box, Decision
from actors.corrections.final_values import CONFIDENCE, CORRECTED_BOX, IS_PERSON, SOURCE
from actors.corrections.matching import as_box
from actors.corrections.missed_persons import missed_persons
from actors.corrections.settings import HUMAN
from actors.errors import ConfigError
from actors.records import ANSWERED
from actors.storage import layout
from actors.storage.object_store import ObjectStore
from jobs.dataset.splits import Period, group_of
from jobs.exchange.selection import condition_errors, consolidated, fitting_persons

_FRAME = ("shard_id", "frame_key", "camera", "captured_at", "width", "height")
_KEYS = ("shard_id", "frame_key", "person_index")
_ROWS_AT_ONCE = 20_000
_MEMORY = "1GB"


@dataclass(frozen=True, slots=True)
class Labelled:
    """A value, where it is from and how sure it is. `source` is None if nobody gave a value."""

    value: AttributeValue
    source: str | None
    confidence: float | None


@dataclass(frozen=True, slots=True)
class FinalPerson:
    """A person.

    Attributes:
        person_id: Shard, frame and number, as in the path of the document.
        box: The corrected box, or the detected one.
        is_corrected: Whether a person has drawn the box.
        labels: The final values by attribute.
        is_chosen: Whether the conditions hold.
    """

    person_id: str
    box: Box
    is_corrected: bool
    labels: Mapping[str, Labelled]
    is_chosen: bool = True


@dataclass(frozen=True, slots=True)
class FinalFrame:
    """A frame with the persons that are in it by everybody's last word.

    Attributes:
        not_persons: How many detections people said are none.
        dropped: How many detections are outside the region of interest, and so are not among the persons.
    """

    shard_id: str
    frame_key: str
    camera: str | None
    captured_at: datetime | None
    width: int
    height: int
    persons: tuple[FinalPerson, ...]
    not_persons: int
    dropped: int


class FinalPersons:
    """The consolidated persons of an output, read with DuckDB."""

    def __init__(
        self, database: duckdb.DuckDBPyConnection, attributes: AttributeSchema, conditions: Sequence[str]
    ) -> None:
        self._persons = database.table("persons").set_alias("persons")
        self._dropped = database.table("frames").select("shard_id, frame_key, detected - kept AS dropped")
        self._attributes = attributes
        self._conditions = conditions
        missing = [name for name in attributes.names if name not in self._persons.columns]
        if missing:
            raise ConfigError(f"the consolidated table has no column {missing[0]}; run shopframe consolidate")
        fitting = fitting_persons(database, self._persons, conditions, attributes)
        fitting = fitting.filter(duckdb.ColumnExpression(IS_PERSON))
        self._fitting = fitting.select(*_KEYS).set_alias("fitting")

    @classmethod
    @contextmanager
    def of(
        cls, store: ObjectStore, attributes: AttributeSchema, conditions: Sequence[str]
    ) -> Iterator[FinalPersons]:
        """Open the consolidated table.

        Args:
            store: The output.
            attributes: The attributes.
            conditions: Conditions that chosen persons fulfil, as for `select_persons`.

        Raises:
            ConfigError: The output has no consolidated persons, or a condition is wrong.
        """
        source = consolidated(store)
        frames = consolidated(store, layout.CONSOLIDATED_FRAMES)
        with tempfile.TemporaryDirectory() as folder:
            # What doesn't fit while the rows are sorted is written there.
            connection = duckdb.connect(config={"memory_limit": _MEMORY, "temp_directory": folder})
            with connection as database, condition_errors():
                database.register("persons", source)
                database.register("frames", frames)
                yield cls(database, attributes, conditions)

    def groups(self, period: Period) -> set[str]:
        """Return the groups of all frames with chosen persons."""
        keys = self._frames().select("camera", "captured_at", "shard_id").distinct()
        return {group_of(camera, time, shard_id, period) for camera, time, shard_id in _rows(keys)}

    def annotators(self) -> list[dict[str, Any]]:
        """Return models with prompts by annotator, and how many chosen persons they answered."""
        found = []
        chosen = self._persons.join(self._fitting, ", ".join(_KEYS), how="semi")
        for column in chosen.columns:
            name = column.removesuffix("_prompt_sha256")
            if name != column:
                names = [f"{name}_{part}" for part in ("model", "model_version", "prompt_sha256")]
                counts = chosen.filter(f"{name}_status IN {ANSWERED}").aggregate(
                    [*map(duckdb.ColumnExpression, names), duckdb.FunctionExpression("count")]
                )
                for model, version, prompt, persons in sorted(counts.fetchall(), key=str):
                    found.append(
                        {
                            "annotator": name,
                            "model": model,
                            "model_version": version,
                            "prompt_sha256": prompt,
                            "persons": persons,
                        }
                    )
        return found

    def shards(self, decisions: Mapping[str, Sequence[Decision]]) -> Iterator[tuple[str, list[FinalFrame]]]:
        """Yield each shard with its frames that have chosen persons or, without conditions, any persons.

        Args:
            decisions: All decisions by shard, for the persons whom the detector has missed.
        """
        columns = [*_FRAME, "person_index", "bbox", CORRECTED_BOX, IS_PERSON]
        for name in self._attributes.names:
            columns += [name, f"{name}_{SOURCE}", f"{name}_{CONFIDENCE}"]
        chosen = self._fitting.select(*_KEYS, duckdb.ConstantExpression(True).alias("is_chosen"))
        rows = (
            self._frames()
            .join(chosen.set_alias("chosen"), ", ".join(_KEYS), how="left")
            .select(*columns, "is_chosen")
            .set_alias("rows")
            .join(self._dropped.set_alias("dropped"), "shard_id, frame_key", how="left")
            .select(*columns, "is_chosen", "dropped")
            .order(", ".join(_KEYS))
        )
        reader = rows.to_arrow_reader(_ROWS_AT_ONCE)
        listed = itertools.chain.from_iterable(batch.to_pylist() for batch in reader)
        for shard_id, some in itertools.groupby(listed, key=lambda row: row["shard_id"]):
            yield shard_id, list(self._shard(list(some), decisions.get(shard_id, ())))

    def _frames(self) -> duckdb.DuckDBPyRelation:
        if not self._conditions:
            return self._persons
        frames = self._fitting.select("shard_id", "frame_key").distinct().set_alias("frames")
        return self._persons.join(frames, "shard_id, frame_key", how="semi")

    def _shard(self, rows: Sequence[dict[str, Any]], decisions: Sequence[Decision]) -> Iterator[FinalFrame]:
        by_frame = {key: list(some) for key, some in itertools.groupby(rows, key=lambda r: r["frame_key"])}
        boxes = {key: [as_box(row["bbox"]) for row in some] for key, some in by_frame.items()}
        missed: dict[str, list[FinalPerson]] = {}
        for person in missed_persons(decisions, boxes):
            others = missed.setdefault(person.frame_key, [])
            labels = {
                name: Labelled(person.values[name], HUMAN, 1.0)
                if name in person.values
                else Labelled(None, None, None)
                for name in self._attributes.names
            }
            name = f"{_frame_id(rows[0]['shard_id'], person.frame_key)}/{MISSED}-{len(others)}"
            others.append(FinalPerson(name, person.box, True, labels, not self._conditions))
        for key, some in by_frame.items():
            persons = tuple(self._person(row) for row in some if row[IS_PERSON])
            first = some[0]
            yield FinalFrame(
                **{name: first[name] for name in _FRAME},
                persons=(*persons, *missed.get(key, ())),
                not_persons=len(some) - len(persons),
                dropped=first["dropped"] or 0,
            )

    def _person(self, row: Mapping[str, Any]) -> FinalPerson:
        corrected = row[CORRECTED_BOX]
        return FinalPerson(
            f"{_frame_id(row['shard_id'], row['frame_key'])}/{row['person_index']}",
            as_box(row["bbox"] if corrected is None else corrected),
            corrected is not None,
            {
                name: Labelled(row[name], row[f"{name}_{SOURCE}"], row[f"{name}_{CONFIDENCE}"])
                for name in self._attributes.names
            },
            bool(row["is_chosen"]),
        )


def _frame_id(shard_id: str, frame_key: str) -> str:
    return f"{shard_id}/{layout.object_name(frame_key)}"


def _rows(relation: duckdb.DuckDBPyRelation) -> Iterator[tuple[Any, ...]]:
    for batch in relation.to_arrow_reader(_ROWS_AT_ONCE):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)
