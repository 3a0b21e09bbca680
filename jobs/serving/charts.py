"""Charts of a selection: how many persons have which value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from actors.attributes import AttributeSchema
from actors.corrections.final_values import CONFIDENCE, IS_PERSON, SOURCE
from jobs.exchange.person_queries import DISAGREES
from jobs.serving.person_table import PersonTable
from jobs.serving.view import RULE, VERDICT, Conditions, View

_BINS = 10
_ROUNDING = 1e-6
_LAST_BIN = 0.9999
_MOST_BARS = 60
"""Bars beyond the most frequent ones are counted together."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: how many persons have a value, or one from `value` up to, but not including, `above`."""

    value: Any
    count: int
    above: float | None = None


@dataclass(frozen=True, slots=True)
class Chart:
    """The bars of one column. `others` counts the persons of the bars that are left out."""

    column: str
    bars: tuple[Bar, ...]
    others: int = 0


class Charts:
    """Makes charts of a table.

    Args:
        table: The persons.
        schema: The attributes.
    """

    def __init__(self, table: PersonTable, schema: AttributeSchema) -> None:
        self._table = table
        self._conditions = Conditions(schema)
        self._widths: dict[str, float] = {"certainty": 1 / _BINS}
        self._places = {a.name: {value: place for place, value in enumerate(a.values)} for a in schema}
        for attribute in schema:
            self._widths[f"{attribute.name}_{CONFIDENCE}"] = 1 / _BINS
            if attribute.type == "integer":
                self._widths[attribute.name] = 10.0

    def chart(self, view: View, column: str) -> Chart:
        """Return the chart of a column. Conditions on the column don't count, so that it keeps all bars.

        Raises:
            ConfigError: There is no such column.
        """
        if column == RULE:
            return self._rules(view)
        if column == VERDICT:
            self._table.load_dropped()
        where = self._conditions.where(view, without=column)
        expression = self._conditions.expression(column)
        width = self._widths.get(column)
        if width is not None:
            # A confidence of 1 belongs to the last bin.
            binned = f"if({expression} >= 1, {_LAST_BIN}, {expression})" if width < 1 else expression
            expression = f"floor({binned} / {width} + {_ROUNDING})::INTEGER"
        found = self._table.query(
            f"SELECT {expression} AS value, count(*) AS persons FROM persons WHERE {where.text} "
            f"GROUP BY value ORDER BY persons DESC, value LIMIT {_MOST_BARS + 1000}",
            where.parameters,
        )
        bars = [_bar(value, count, width) for value, count in found]
        if width is not None or column in ("hour", "day"):
            bars.sort(key=lambda bar: (bar.value is None, bar.value))
        shown, others = bars[:_MOST_BARS], bars[_MOST_BARS:]
        places = self._places.get(column)
        if width is None and places is not None:
            # In the order of the schema, then former values, then no value.
            shown.sort(key=lambda bar: (bar.value is None, places.get(bar.value, len(places))))
        return Chart(column, tuple(shown), sum(bar.count for bar in others))

    def _rules(self, view: View) -> Chart:
        where = self._conditions.where(view, without=RULE)
        rules = list(self._conditions.rules())
        counts = ", ".join(f"count(*) FILTER ((broken & {bit}) <> 0)" for _, bit in rules) or "count(*)"
        row = self._table.query(f"SELECT {counts} FROM persons WHERE {where.text}", where.parameters)[0]
        return Chart(RULE, tuple(Bar(text, count) for (text, _), count in zip(rules, row, strict=False)))


def _bar(value: Any, count: int, width: float | None) -> Bar:
    if width is None or value is None:
        return Bar(value if value is None or isinstance(value, bool | int | float) else str(value), count)
    above = round((value + 1) * width, 6)
    return Bar(round(value * width, 6), count, above + _ROUNDING if above == 1 else above)


def chart_columns(schema: AttributeSchema) -> dict[str, Sequence[str]]:
    """Return the columns that have charts: those that are about the frame, and those of each attribute."""
    groups: dict[str, Sequence[str]] = {
        "": ("camera", "hour", "day", "certainty", "decided", IS_PERSON, RULE, VERDICT)
    }
    for attribute in schema:
        name = attribute.name
        groups[name] = (name, f"{name}_{SOURCE}", f"{name}_{CONFIDENCE}", f"{name}_{DISAGREES}")
    return groups
