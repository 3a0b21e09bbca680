"""An output whose persons machines have answered about, and of whom people have decided some at random."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from actors.attribute import Attribute, AttributeValue, same_value
from actors.attribute_settings import SchemaSettings
from actors.attributes import AttributeSchema
from actors.corrections.consensus import Consensus, read_consensus
from actors.corrections.decision_log import read_decisions
from actors.corrections.final_values import SOURCE, PersonDecisions, final_columns
from actors.corrections.settings import ConsensusSettings
from actors.storage.object_store import ObjectStore
from jobs.evaluation.against_corrections import answers_in
from jobs.evaluation.estimates import Estimate
from jobs.evaluation.gold import Gold, read_gold
from jobs.evaluation.populations import CELL
from jobs.evaluation.shares import MIN_LABELS, Labelled, estimate_share
from jobs.exchange.selection import consolidated
from jobs.run.run_record import read_run

KEYS = ("shard_id", "frame_key", "person_index")
ROWS_AT_ONCE = 50_000
"""Rows of the consolidated table that are in memory at once."""

GUESS = "a model's guess: nobody of these persons was drawn at random and decided, so there is no interval"


@dataclass(frozen=True, slots=True)
class AttributeLabels:
    """What people decided about an attribute of n persons that were drawn at random.

    Attributes:
        name: The attribute.
        gold: The gold labels that these are of.
        rows: int64 [n] their rows in `Gold.rows`.
        truth: [n] the decided values; null where the detection shows no person.
        is_person: [n] 1 where it shows one, else 0.
        said: [n] what the machines say.
        is_said: [n] whether they say anything.
        probability: [n] probability of inclusion.
        clusters: int64 [n] the cluster of each person.
    """

    name: str
    gold: Gold
    rows: NDArray[np.int64]
    truth: list[AttributeValue]
    is_person: NDArray[np.float64]
    said: list[AttributeValue]
    is_said: NDArray[np.float64]
    probability: NDArray[np.float64]
    clusters: NDArray[np.int64]

    def values(self, among: Collection[int]) -> set[AttributeValue]:
        """Return the values that people decided about persons in some rows."""
        of_rows = zip(self.rows.tolist(), self.truth, self.is_person.tolist(), strict=True)
        return {value for row, value, is_person in of_rows if is_person and row in among}

    def about(self, value: AttributeValue, among: Collection[int]) -> Labelled:
        """Return who has a value by people and by machines, of the persons in some rows."""
        chosen = np.isin(self.rows, np.fromiter(among, np.int64, len(among)))
        has, says = (
            np.array([same_value(one, value) for one in given], np.float64)
            for given in (self.truth, self.said)
        )
        return Labelled(
            (has * self.is_person)[chosen],
            self.is_person[chosen],
            (says * self.is_said)[chosen],
            self.probability[chosen],
            self.clusters[chosen],
        )

    def share(
        self, value: AttributeValue, said: int, cells: Mapping[str, int], drawn: Collection[int]
    ) -> SharedValue:
        """Return the share of a value among some persons.

        Args:
            value: The value.
            said: Of how many of these persons machines say so.
            cells: Number of these persons by cell.
            drawn: Rows of those of them that people have decided about.
        """
        persons = sum(cells.values())
        labelled = self.about(value, drawn)
        outside = self.gold.outside(self.name, cells)
        if outside or self.name in self.gold.too_few:
            share = Estimate(said / persons if persons else None, None, None, len(labelled.truth))
            alone = Estimate(None, None, None, 0)
            of_detections = share
        else:
            share = estimate_share(said, persons, labelled)
            alone = estimate_share(said, persons, labelled, trust=0.0) if share.n else share
            # Their number is known, while that of those who show persons is estimated, too.
            everybody = replace(labelled, is_person=np.ones_like(labelled.is_person))
            of_detections = estimate_share(said, persons, everybody)
        rests_on = _rests_on(share, persons, outside, self.gold.drawn_among(self.name))
        return SharedValue(share, of_detections.times(persons), alone, rests_on)


@dataclass(frozen=True, slots=True)
class SharedValue:
    """The share of a value among some persons.

    Attributes:
        share: The estimate from machines' answers and people's decisions.
        number: How many persons in frames have the value, by the same estimate.
        by_labels_alone: The estimate from the decisions alone, if there is one.
        rests_on: What the share rests on, in words.
    """

    share: Estimate
    number: Estimate
    by_labels_alone: Estimate
    rests_on: str


@dataclass(frozen=True, slots=True)
class MachineCounts:
    """What machines say about some persons.

    Attributes:
        cells: Number of these persons by cell of `Gold.populations`.
        values: By attribute, the number of persons by value.
        drawn: Rows in `Gold.rows` of those that people have decided about.
    """

    cells: Mapping[str, int]
    values: Mapping[str, Counter[AttributeValue]]
    drawn: frozenset[int]

    @property
    def persons(self) -> int:
        """Number of these persons."""
        return sum(self.cells.values())


@dataclass(frozen=True)
class AuditedOutput:
    """The consolidated persons of an output with the gold labels about some of them.

    Attributes:
        table: The consolidated persons.
        schema: The attributes of the last run.
        gold: The gold labels.
        consensus: How machines' answers are weighed. It withholds nothing, since a withheld value is a
            prediction, too.
    """

    table: ds.Dataset
    schema: AttributeSchema
    gold: Gold
    consensus: Consensus

    @classmethod
    def of(cls, output: ObjectStore) -> Self:
        """Read an output.

        Raises:
            ConfigError: It has no run, or no consolidated persons.
        """
        run = read_run(output)
        schema = AttributeSchema(run.section("schema", SchemaSettings))
        consensus = read_consensus(output, run.section("consensus", ConsensusSettings))
        table = consolidated(output)
        gold = read_gold(table, schema, read_decisions(output))
        return cls(table, schema, gold, Consensus(consensus.precedence, consensus.calibration))

    def judged(self) -> AttributeSchema:
        """Return the attributes about which people have decided, without integers."""
        names = [a.name for a in self.schema if self.gold.truth.get(a.name) and a.type != "integer"]
        return self.schema.only(names)

    def columns(self, attributes: AttributeSchema) -> list[str]:
        """Return the columns of the table that `machine_values` reads, with the keys of persons."""
        endings = [f"_{name}" for name in attributes.names]
        endings += ["_status", "_model", "_model_version", "_prompt_sha256"]
        plain = {*KEYS, *self.gold.populations.columns}
        return [c for c in self.table.schema.names if c in plain or c.endswith(tuple(endings))]

    def machine_values(self, rows: pa.Table, attributes: AttributeSchema) -> pa.Table:
        """Return what machines say about persons, by the code that consolidates, without decisions.

        Args:
            rows: [n] persons with `columns`.
            attributes: The attributes.

        Returns:
            [n] the keys, the cell of `Gold.populations` and, for each attribute, its value and
            `<attribute>_source`, which is null where no machine gives a value.
        """
        found = final_columns(answers_in(rows), PersonDecisions(), attributes, self.consensus, rows.num_rows)
        said = {name: found[name] for a in attributes.names for name in (a, f"{a}_{SOURCE}")}
        cells = self.gold.populations.cells_of(rows)
        return pa.table({name: rows[name] for name in KEYS} | {CELL: cells} | said)

    def batches(self, attributes: AttributeSchema) -> Iterator[pa.RecordBatch]:
        """Yield all persons with `columns`."""
        yield from self.table.to_batches(columns=self.columns(attributes), batch_size=ROWS_AT_ONCE)

    def count(self, batches: Iterable[pa.RecordBatch], attributes: AttributeSchema) -> MachineCounts:
        """Count what machines say about persons, and find those that people have decided about.

        Args:
            batches: Persons with `columns`.
            attributes: The attributes.
        """
        values: dict[str, Counter[AttributeValue]] = {name: Counter() for name in attributes.names}
        cells, drawn = Counter[str](), set[int]()
        shards = pc.unique(self.gold.rows["shard_id"])
        for batch in batches:
            said = self.machine_values(pa.Table.from_batches([batch]), attributes)
            cells.update({row["values"]: row["counts"] for row in pc.value_counts(said[CELL]).to_pylist()})
            for name in attributes.names:
                # Null sources aren't counted: nobody has given a value.
                counted = said.group_by([name]).aggregate([(f"{name}_{SOURCE}", "count")])
                for row in counted.to_pylist():
                    values[name][row[name]] += row[f"{name}_{SOURCE}_count"]
            near = said.select(list(KEYS)).filter(pc.is_in(said["shard_id"], shards))
            keys = (tuple(row.values()) for row in near.to_pylist())
            drawn |= {self._row_of[key] for key in keys if key in self._row_of}
        return MachineCounts(cells, values, frozenset(drawn))

    def labels(self, attribute: Attribute) -> AttributeLabels:
        """Return what people decided about an attribute, beside what machines say."""
        gold, name = self.gold, attribute.name
        truth, chances = gold.truth.get(name, {}), gold.probability.get(name, {})
        rows = sorted(chances)
        at = np.array(rows, np.int64)
        said = self.machine_values(gold.rows.take(pa.array(at)), self.schema.only([name]))
        return AttributeLabels(
            name,
            gold,
            at,
            [truth.get(row) for row in rows],
            np.array([row not in gold.not_persons for row in rows], np.float64),
            said[name].to_pylist(),
            np.asarray(said[f"{name}_{SOURCE}"].is_valid().to_numpy(), np.float64),
            np.array([chances[row] for row in rows], np.float64),
            gold.clusters[at],
        )

    @cached_property
    def _row_of(self) -> dict[tuple[object, ...], int]:
        keys = self.gold.rows.select(list(KEYS)).to_pylist()
        return {tuple(row.values()): number for number, row in enumerate(keys)}


def _rests_on(share: Estimate, persons: int, outside: int, drawn_among: str) -> str:
    if not persons:
        return "no person fits the conditions"
    if not share.n:
        return GUESS
    if outside:
        return (
            f"a model's guess: {outside:,} of these {persons:,} persons could not be drawn, because people "
            f"have decided about persons drawn among {drawn_among} only, so there is no interval"
        )
    if share.low is None:
        return (
            f"a model's guess; too few to say how sure: {share.n} of these persons were drawn at random "
            f"and decided, and an interval takes {MIN_LABELS}, not all of one minute"
        )
    return (
        f"the machines' answers about {persons:,} persons, put right by {share.n:,} that were drawn at "
        "random and decided"
    )
