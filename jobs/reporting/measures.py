"""Exact numbers about all persons and frames, counted by DuckDB in the consolidated tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import duckdb
import numpy as np
import pyarrow.dataset as ds

from actors.attribute import Attribute, AttributeValue
from actors.attributes import AttributeSchema
from actors.corrections.final_values import CONFIDENCE, IS_PERSON, SOURCE
from actors.corrections.settings import HUMAN
from actors.records import ANSWERED
from actors.storage import layout
from actors.storage.object_store import ObjectStore
from actors.storage.snapshot_table import SnapshotTable
from jobs.analysis.observations import text
from jobs.evaluation.proportion import Proportion
from jobs.exchange.selection import consolidated
from jobs.reporting.kappa import Kappa

BINS = 10
"""Bins of confidence between 0 and 1, and integers in a bin of an integer attribute."""
_VALUES_SHOWN = 30
_REASONS_SHOWN = 20
_CAMERAS_SHOWN = 50


@dataclass(frozen=True, slots=True)
class Shares:
    """How often each final value of an attribute occurs, among the persons that have one.

    Attributes:
        name: The attribute.
        values: Values with their shares, in the order of the schema.
        without: Number of persons for whom nobody has given a value.
        sources: Number of values by source.
        average: Mean of an integer attribute.
    """

    name: str
    values: tuple[tuple[str, Proportion], ...]
    without: int
    sources: dict[str, int]
    average: float | None = None


@dataclass(frozen=True, slots=True)
class Confidence:
    """How sure the models are of their values of an attribute.

    Attributes:
        name: The attribute.
        bins: Number of values by confidence, in `BINS` bins from 0 to 1.
        quartiles: First quartile, median and third quartile.
        unsure: Number of values below `UNSURE`.
    """

    name: str
    bins: tuple[int, ...]
    quartiles: tuple[float, float, float]
    unsure: int

    @property
    def values(self) -> int:
        """Number of values with a confidence."""
        return sum(self.bins)


UNSURE = 0.6


@dataclass(frozen=True, slots=True)
class Agreement:
    """How two annotators answered about the same persons.

    Attributes:
        name: The attribute.
        annotators: The annotator of the rows, and that of the columns.
        labels: The values.
        counts: Number of persons by both answers.
        agreed: The share of persons with equal answers. Integers in one bin count as equal.
        kappa: Cohen's kappa.
    """

    name: str
    annotators: tuple[str, str]
    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    agreed: Proportion
    kappa: Kappa


def label(value: AttributeValue) -> str:
    """Return a value as it is written in JSON, a text without its quotes."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)


class Measures:
    """The consolidated tables of an output.

    Attributes:
        persons: All kept persons, as a relation.
        annotators: Names of the annotators that have columns.
    """

    def __init__(
        self, persons: duckdb.DuckDBPyRelation, frames: duckdb.DuckDBPyRelation, attributes: AttributeSchema
    ) -> None:
        self.persons = persons
        self._frames = frames
        self._real = persons.filter(quoted(IS_PERSON))
        self.attributes = [a for a in attributes if a.name in persons.columns]
        self.annotators = tuple(
            name.removesuffix("_status") for name in persons.columns if name.endswith("_status")
        )

    @classmethod
    @contextmanager
    def of(cls, store: ObjectStore, attributes: AttributeSchema) -> Iterator[Measures]:
        """Open the consolidated tables.

        Raises:
            ConfigError: The output has none.
        """
        persons = consolidated(store)
        frames = SnapshotTable(store, layout.CONSOLIDATED_FRAMES).paths() or []
        frame_set = ds.dataset([store.full(p) for p in frames], filesystem=store.fs, format="parquet")
        with duckdb.connect() as database:
            database.register("persons", persons)
            database.register("frames", frame_set)
            yield cls(database.table("persons"), database.table("frames"), attributes)

    def kept(self) -> int:
        """Return the number of persons."""
        return _rows(self.persons)

    def not_persons(self) -> int:
        """Return the number of detections that people have called no person."""
        return self.kept() - _rows(self._real)

    def frames(self) -> tuple[int, int]:
        """Return the number of frames, and of those that failed."""
        ((frames, failed),) = self._frames.aggregate(
            "count(*), count(*) FILTER (status = 'error')"
        ).fetchall()
        return frames, failed

    def failed_frames(self) -> list[tuple[str, int, str]]:
        """Return reasons of failed frames with their numbers and one of the frames, the frequent first.

        Errors that differ only in numbers are one reason.
        """
        failed = self._frames.filter("status = 'error'").select(
            "regexp_replace(coalesce(error, ''), '\\d+', '#', 'g') AS kind, error, "
            "shard_id || '/' || frame_key AS frame"
        )
        reasons = failed.aggregate("kind, count(*) AS n, arg_min(error, frame), min(frame) AS first", "kind")
        listed = reasons.order("n DESC, kind").limit(_REASONS_SHOWN).fetchall()
        return [(error if n == 1 else kind, n, first) for kind, n, error, first in listed]

    def unanswered(self, annotator: str) -> list[tuple[str, str, int]]:
        """Return outcomes without values with their reasons and numbers, the frequent first."""
        status, reason = quoted(f"{annotator}_status"), quoted(f"{annotator}_reason")
        others = self.persons.filter(f"{status} NOT IN {ANSWERED}").select(
            f"{status} AS status, regexp_replace(coalesce({reason}, ''), '\\d+', '#', 'g') AS reason"
        )
        counted = others.aggregate("status, reason, count(*) AS n", "status, reason")
        return counted.order("n DESC, status, reason").limit(_REASONS_SHOWN).fetchall()

    def cameras(self) -> list[tuple[str, int, int, int]]:
        """Return cameras with their frames, detected and kept persons, the busiest first."""
        counted = self._frames.aggregate(
            "coalesce(camera, '') AS name, count(*) AS n, sum(detected)::BIGINT AS detected, "
            "sum(kept)::BIGINT AS kept",
            "name",
        )
        return counted.order("detected DESC, name").limit(_CAMERAS_SHOWN).fetchall()

    def hours(self, timezone: str) -> list[int]:
        """Return the number of persons by hour of the day in a time zone; nothing if no frame has a time."""
        timed = self._real.filter("captured_at IS NOT NULL").select(
            f"hour(captured_at AT TIME ZONE {text(timezone)}) AS hour"
        )
        found = dict(timed.aggregate("hour, count(*)", "hour").fetchall())
        return [found.get(hour, 0) for hour in range(24)] if found else []

    def shares(self, attribute: Attribute) -> Shares:
        """Return how often each final value occurs."""
        value, source = quoted(attribute.name), quoted(f"{attribute.name}_{SOURCE}")
        given = self._real.filter(f"{source} IS NOT NULL")
        binned = given.select(f"{_binned(attribute, value)} AS value")
        counts = dict(binned.aggregate("value, count(*)", "value").fetchall())
        total = sum(counts.values())
        listed = _in_order(counts, attribute)
        average = _one(given.aggregate(f"avg({value})")) if attribute.type == "integer" else None
        sources = given.aggregate(f"{source} AS source, count(*) AS n", "source").order("n DESC, source")
        return Shares(
            attribute.name,
            tuple((bin_label(v, attribute), Proportion.of(counts[v], total)) for v in listed[:_VALUES_SHOWN]),
            _rows(self._real) - total,
            dict(sources.fetchall()),
            average,
        )

    def confidence(self, attribute: Attribute) -> Confidence | None:
        """Return how sure the models are of their final values, or None if they didn't say."""
        source, name = quoted(f"{attribute.name}_{SOURCE}"), quoted(f"{attribute.name}_{CONFIDENCE}")
        said = self._real.filter(f"{source} <> '{HUMAN}' AND {name} IS NOT NULL").select(f"{name} AS c")
        bins = dict(
            said.select(f"least(floor(c * {BINS}), {BINS - 1})::INT AS bin")
            .aggregate("bin, count(*)", "bin")
            .fetchall()
        )
        if not bins:
            return None
        quartiles, unsure = said.aggregate(
            f"quantile_cont(c, [0.25, 0.5, 0.75]), count(*) FILTER (c < {UNSURE}::FLOAT)"
        ).fetchall()[0]
        return Confidence(
            attribute.name, tuple(bins.get(b, 0) for b in range(BINS)), tuple(quartiles), unsure
        )

    def agreements(self) -> Iterator[Agreement]:
        """Yield every attribute that two annotators have answered about the same persons.

        Inherited answers are left out, because they say nothing new.
        """
        for pair in combinations(sorted(self.annotators, reverse=True), 2):
            both = self._real.filter(" AND ".join(f"{quoted(f'{name}_status')} = 'ok'" for name in pair))
            for attribute in self.attributes:
                columns = [f"{annotator}_{attribute.name}" for annotator in pair]
                if all(column in self.persons.columns for column in columns):
                    some, others = (_binned(attribute, quoted(column)) for column in columns)
                    answers = both.select(f"{some} AS a, {others} AS b")
                    found = answers.aggregate("a, b, count(*)", "a, b").fetchall()
                    if found:
                        yield _agreement(attribute, (pair[0], pair[1]), found)

    def human_values(self) -> dict[str, int]:
        """Return the number of final values that people have given, by attribute."""
        found = {}
        for attribute in self.attributes:
            source = quoted(f"{attribute.name}_{SOURCE}")
            found[attribute.name] = _rows(self.persons.filter(f"{source} = '{HUMAN}'"))
        return found


def quoted(name: str) -> str:
    """Return the name of a column as SQL."""
    return '"' + name.replace('"', '""') + '"'


def bin_label(value: AttributeValue, attribute: Attribute) -> str:
    """Return a value, or the integers of a bin, in words."""
    if attribute.type == "integer" and value is not None:
        return f"{value} to {int(value) + BINS - 1}"
    return label(value)


def _binned(attribute: Attribute, value: str) -> str:
    return f"({value} // {BINS}) * {BINS}" if attribute.type == "integer" else value


def _in_order(values: Sequence[AttributeValue] | dict[Any, int], attribute: Attribute) -> list[Any]:
    """Return values in the order of the schema, then former values, then null."""
    known = {value: place for place, value in enumerate(attribute.values)}
    return sorted(values, key=lambda v: (v is None, known.get(v, len(known)), str(v)))


def _agreement(
    attribute: Attribute,
    annotators: tuple[str, str],
    found: Sequence[tuple[AttributeValue, AttributeValue, int]],
) -> Agreement:
    values = _in_order({value: 0 for row in found for value in row[:2]}, attribute)
    place = {value: index for index, value in enumerate(values)}
    counts = np.zeros((len(values), len(values)), np.int64)
    for some, other, number in found:
        counts[place[some], place[other]] = number
    return Agreement(
        attribute.name,
        annotators,
        tuple(bin_label(value, attribute) for value in values),
        tuple(tuple(row) for row in counts.tolist()),
        Proportion.of(int(np.trace(counts)), int(counts.sum())),
        Kappa.of(counts),
    )


def _one(relation: duckdb.DuckDBPyRelation) -> Any:
    ((value,),) = relation.fetchall()
    return value


def _rows(relation: duckdb.DuckDBPyRelation) -> int:
    return int(_one(relation.aggregate("count(*)")))
