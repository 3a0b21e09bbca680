"""The persons among whom random audits have drawn."""

from __future__ import annotations

import functools
import operator
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from actors.attributes import AttributeSchema
from actors.corrections.draw import EVERYBODY, Among, compared_columns
from jobs.exchange.computed_columns import columns_by_values, with_hours
from jobs.exchange.person_queries import annotators_in
from jobs.exchange.selection import expression

CELL = "cell"
"""The column that says in which populations a person is."""
_ROWS_AT_ONCE = 200_000
_IN, _OUT = "1", "0"


@dataclass(frozen=True, slots=True)
class Populations:
    """Populations that may overlap, and how many persons are in them.

    A cell is the persons that are in the same populations. It is named by a text with a character for each
    population.

    Attributes:
        among: The conditions of each population.
        columns: The columns of the table that they are about.
        cells: Number of persons in the table by cell.
    """

    among: tuple[Among, ...]
    columns: tuple[str, ...]
    cells: Mapping[str, int]

    def contains(self, cell: str, population: Among) -> bool:
        """Return whether the persons of a cell are in a population."""
        return population == EVERYBODY or cell[self.among.index(population)] == _IN

    def size(self, population: Among) -> int:
        """Return the number of persons of the table in a population."""
        return sum(n for cell, n in self.cells.items() if self.contains(cell, population))

    def outside(self, cells: Mapping[str, int], populations: Collection[Among]) -> int:
        """Return how many persons are in none of some populations.

        Args:
            cells: Number of persons by cell.
            populations: The populations.
        """
        return sum(n for cell, n in cells.items() if not any(self.contains(cell, p) for p in populations))

    def rows_in(self, cells: Sequence[str], populations: Collection[Among]) -> set[int]:
        """Return the numbers of persons that are in any of some populations.

        Args:
            cells: [n] the cell of each person.
            populations: The populations.
        """
        return {row for row, cell in enumerate(cells) if any(self.contains(cell, p) for p in populations)}

    def cells_of(self, rows: pa.Table) -> pa.ChunkedArray:
        """Return the cell of each person.

        Args:
            rows: [n] persons with `columns`.

        Returns:
            string [n].
        """
        if not self.among:
            return pa.chunked_array([pa.repeat("", rows.num_rows)])
        with duckdb.connect() as database:
            database.execute("SET TimeZone = 'UTC'")
            given = rows.select(list(self.columns)).append_column("row", pa.array(range(rows.num_rows)))
            persons = with_hours(database.from_arrow(given))
            inside = [_marked(one, persons) for one in self.among]
            cell = duckdb.FunctionExpression("concat", *inside).alias(CELL)
            found = persons.select(duckdb.ColumnExpression("row"), cell).order("row").to_arrow_table()
        cells: pa.ChunkedArray = found[CELL]
        return cells


def populations_of(table: ds.Dataset, among: Collection[Among]) -> Populations:
    """Return populations of a table, and count their persons.

    Args:
        table: The consolidated persons.
        among: The conditions of each population. All of them `is_known`.
    """
    narrower = tuple(sorted({one for one in among if one != EVERYBODY}, key=str))
    columns = tuple(sorted(_columns_of(narrower, table.schema.names)))
    made = Populations(narrower, columns, {})
    if not narrower:
        return Populations((), (), {"": table.count_rows()})
    cells: Counter[str] = Counter()
    for batch in table.to_batches(columns=list(columns), batch_size=_ROWS_AT_ONCE):
        if batch.num_rows:
            cells.update(made.cells_of(pa.Table.from_batches([batch])).to_pylist())
    return Populations(narrower, columns, cells)


def is_known(among: Among, table: ds.Dataset, schema: AttributeSchema) -> bool:
    """Return whether it is known today who was among the persons of a draw.

    It isn't if conditions are about final values, since decisions change these, about models' answers, which
    may be given anew, or about columns that the table no longer has.
    """
    columns = table.schema.names
    there = compared_columns(among) <= {*columns, "hour", "day"}
    return there and not columns_by_values(among, schema, annotators_in(columns))


def _columns_of(among: Collection[Among], known: Collection[str]) -> set[str]:
    return {name if name in known else "captured_at" for one in among for name in compared_columns(one)}


def _marked(among: Among, persons: duckdb.DuckDBPyRelation) -> duckdb.Expression:
    """Return whether persons are in a population, as a character."""
    every = [
        functools.reduce(operator.or_, (expression(one, persons, is_lenient=True) for one in condition))
        for condition in among
    ]
    inside: duckdb.Expression = functools.reduce(operator.and_, every)
    one, none = duckdb.ConstantExpression(_IN), duckdb.ConstantExpression(_OUT)
    return duckdb.CaseExpression(inside, one).otherwise(none)
