"""Shares of attributes among the people in frames, with intervals where people have decided about some.

Where nobody has decided about persons that were drawn at random, a share is that of the final values, and
says that it is a model's guess. Otherwise it is estimated as by `shopframe evaluate --share`: from what
machines say about everybody, put right by these decisions.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from actors.attribute import Attribute, AttributeValue
from actors.corrections.final_values import SOURCE
from actors.corrections.settings import ABSTAINED
from jobs.analysis.figures import counted_sights, listed, within
from jobs.analysis.observations import Observations, quoted
from jobs.analysis.shop import WEEKDAYS, Shop
from jobs.evaluation.audited import GUESS, KEYS, AttributeLabels, AuditedOutput, SharedValue
from jobs.evaluation.estimates import Estimate
from jobs.evaluation.populations import CELL


@dataclass(slots=True)
class _People:
    """The people of one group, by final values and by machines' values, and who was drawn and decided.

    `cells` is how many they are by cell of the audits' populations.
    """

    final: Counter[AttributeValue] = field(default_factory=Counter)
    cells: Counter[str] = field(default_factory=Counter)
    said: Counter[AttributeValue] = field(default_factory=Counter)
    drawn: set[int] = field(default_factory=set)


class AttributeShares:
    """Computes shares of attributes.

    Args:
        seen: The frames and people. The tables `machine` and `drawn` are added to its database.
        shop: What is known about the shop.
        attributes: The attributes, which the people have.
        audited: The output that they are from.
    """

    def __init__(
        self, seen: Observations, shop: Shop, attributes: Sequence[Attribute], audited: AuditedOutput
    ) -> None:
        self._seen = seen
        self._shop = shop
        self._attributes = attributes
        names = set(audited.judged().names) & {attribute.name for attribute in attributes}
        self._labels = {a.name: audited.labels(a) for a in attributes if a.name in names}
        if self._labels:
            self._add_machine_values(audited)

    def by(self, columns: Sequence[str]) -> pa.Table:
        """Return how often each value occurs.

        The columns are `attribute`, those of `columns`, `value` (null: can't be told), `persons` (in frames,
        with this final value: somebody who is in ten frames counts ten times), `of` (persons with a final
        value that is not withheld), `share`, `low`, `high` (null where there is no interval), `number`,
        `number_low`, `number_high` (the estimated number of persons in frames), `decided` (persons that were
        drawn at random and decided) and `rests_on`.
        """
        rows: list[dict[str, Any]] = []
        for attribute in self._attributes:
            groups = self._people_by(attribute.name, columns)
            place = {value: number for number, value in enumerate(attribute.values)}
            for key in sorted(groups, key=lambda key: _sortable(key, columns)):
                people = groups[key]
                labels = self._labels.get(attribute.name)
                values = {*people.final, *people.said, *(labels.values(people.drawn) if labels else ())}
                for value in sorted(values, key=lambda v: (place.get(v, len(place)), str(v))):
                    found = _estimate(people, labels, value)
                    share, number = found.share, found.number
                    rows.append(
                        {
                            "attribute": attribute.name,
                            **dict(zip(columns, key, strict=True)),
                            "value": value,
                            "persons": people.final[value],
                            "of": people.final.total(),
                            "share": share.value,
                            "low": share.low,
                            "high": share.high,
                            "number": number.value,
                            "number_low": number.low,
                            "number_high": number.high,
                            "decided": share.n,
                            "rests_on": found.rests_on,
                        }
                    )
        return pa.Table.from_pylist(rows, _schema(columns))

    def _people_by(self, name: str, columns: Sequence[str]) -> dict[tuple[Any, ...], _People]:
        source, where = self._domain(columns)
        group = listed(columns)
        groups: defaultdict[tuple[Any, ...], _People] = defaultdict(_People)

        def rows(sql: str) -> Iterable[tuple[tuple[Any, ...], Any, Any]]:
            for row in self._seen.database.sql(sql).fetchall():
                yield row[: len(columns)], row[-2], row[-1]

        said = f"{quoted(f'{name}_{SOURCE}')} IS NOT NULL"
        shown = f"is_person AND {said} AND {quoted(f'{name}_{SOURCE}')} <> '{ABSTAINED}'"
        final = (
            f"SELECT {group} {quoted(name)}, count(*) FROM {source} WHERE {where} AND {shown} GROUP BY ALL"
        )
        for key, value, number in rows(final):
            groups[key].final[value] = number
        if name in self._labels:
            everybody = f"SELECT {group} {CELL}, count(*) FROM {source} JOIN machine USING (person) "
            for key, cell, number in rows(f"{everybody} WHERE {where} GROUP BY ALL"):
                groups[key].cells[cell] = number
            value, given = quoted(f"machine_{name}"), f"{quoted(f'machine_{name}_{SOURCE}')} IS NOT NULL"
            machine = f"SELECT {group} {value}, count(*) FROM {source} JOIN machine USING (person) "
            machine += f"WHERE {where} AND {given} GROUP BY ALL"
            for key, said_value, number in rows(machine):
                groups[key].said[said_value] = number
            for key, _, row in rows(
                f"SELECT {group} NULL, row FROM {source} JOIN drawn USING (person) WHERE {where}"
            ):
                groups[key].drawn.add(row)
        return groups

    def _domain(self, columns: Sequence[str]) -> tuple[str, str]:
        """Return the detections that count, as SQL: where they are from, and the condition."""
        source, where = "detections JOIN frames USING (frame)", "NOT staff"
        if "zone" in columns:
            source += " JOIN memberships USING (person)"
            sights = counted_sights(self._seen, self._shop, "memberships.zone")
            where = f"(NOT staff OR kind = 'staff') AND {sights}"
        elif "camera" not in columns:
            where += f" AND {within('camera', self._shop.counted(self._seen.cameras()))}"
        return source, where

    def _add_machine_values(self, audited: AuditedOutput) -> None:
        """Add what machines say about each person, and which row of the gold labels is about whom."""
        judged = audited.schema.only(list(self._labels))
        said = (
            audited.machine_values(pa.Table.from_batches([batch]), judged)
            for batch in audited.batches(judged)
        )
        database = self._seen.database
        for number, values in enumerate(said):
            names = [name if name in (*KEYS, CELL) else f"machine_{name}" for name in values.column_names]
            database.register("said", values.rename_columns(names))
            columns = "".join(f", {quoted(name)}" for name in names if name not in KEYS)
            chosen = f"SELECT shard_id, frame_key, person_index{columns} FROM said"
            database.execute(
                f"INSERT INTO all_said {chosen}" if number else f"CREATE TEMP TABLE all_said AS {chosen}"
            )
            database.unregister("said")
        gold = audited.gold.rows.select(list(KEYS))
        database.register("gold", gold.append_column("row", pa.array(range(gold.num_rows), pa.int64())))
        persons = "JOIN frames USING (shard_id, frame_key) JOIN detections USING (frame, person_index)"
        columns = ", ".join(
            quoted(f"machine_{name}{end}") for name in self._labels for end in ("", f"_{SOURCE}")
        )
        database.execute(
            f"CREATE TEMP TABLE machine AS SELECT person, {CELL}, {columns} FROM all_said {persons}"
        )
        database.execute(f"CREATE TEMP TABLE drawn AS SELECT person, row FROM gold {persons}")
        database.execute("DROP TABLE all_said")
        database.unregister("gold")


def _estimate(people: _People, labels: AttributeLabels | None, value: AttributeValue) -> SharedValue:
    if labels is not None:
        return labels.share(value, people.said[value], people.cells, people.drawn)
    total, number = people.final.total(), people.final[value]
    share = Estimate(number / total if total else None, None, None, 0)
    return SharedValue(share, Estimate(number, None, None, 0), share, GUESS)


def _sortable(key: tuple[Any, ...], columns: Sequence[str]) -> tuple[Any, ...]:
    return tuple(
        WEEKDAYS.index(value) if name == "weekday" else value
        for name, value in zip(columns, key, strict=True)
    )


def _schema(columns: Sequence[str]) -> pa.Schema:
    return pa.schema(
        [
            ("attribute", pa.string()),
            *((name, pa.int32() if name == "hour" else pa.string()) for name in columns),
            ("value", pa.string()),
            ("persons", pa.int64()),
            ("of", pa.int64()),
            ("share", pa.float64()),
            ("low", pa.float64()),
            ("high", pa.float64()),
            ("number", pa.float64()),
            ("number_low", pa.float64()),
            ("number_high", pa.float64()),
            ("decided", pa.int64()),
            ("rests_on", pa.string()),
        ]
    )
