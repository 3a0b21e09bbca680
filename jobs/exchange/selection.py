"""Choose persons from the consolidated table, by conditions on its columns or at random."""

from __future__ import annotations

import difflib
import operator
import re
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from actors.attributes import AttributeSchema
from actors.corrections.draw import Among, Comparison, Draw, Operator, among
from actors.errors import ConfigError
from actors.storage import layout
from actors.storage.object_store import ObjectStore
from actors.storage.snapshot_table import SnapshotTable
from jobs.exchange.computed_columns import RULE, with_computed_columns
from jobs.exchange.person_queries import literal, quoted
from jobs.exchange.queues import QUEUES, QueueName

Purpose = Literal["need", "audit"]

_KEYS = ("shard_id", "frame_key", "person_index")
_ORDER = ", ".join(_KEYS)
_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_CONDITION = re.compile(r"\s*(\w+)\s*(!=|<=|>=|=|<|>)\s*(.*?)\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Selection:
    """Persons in their frames.

    Attributes:
        rows: The consolidated rows of all persons in the frames of the chosen ones, frame by frame. The
            frames are in the order of the chosen ones.
        chosen: Keys of the chosen persons: shard, frame and number.
        available: Number of persons that fit the conditions.
        draw: The random draw, for an audit.
    """

    rows: list[dict[str, Any]]
    chosen: frozenset[tuple[str, str, int]]
    available: int
    draw: Draw | None = None


def select_persons(
    store: ObjectStore,
    schema: AttributeSchema,
    conditions: Sequence[str],
    limit: int | None,
    purpose: Purpose,
    queue: QueueName = "all",
) -> Selection:
    """Choose persons, and return all persons of their frames, so that a reviewer sees each frame whole.

    Args:
        store: The output.
        schema: The attributes of the last run.
        conditions: Each a column, one of = != < <= > >=, and a value or another column, such as
            `gender_confidence<0.6` or `smolvlm_gender!=gemini_gender`. All of them must hold. The value
            `null` stands for no value.
        limit: Maximum number of persons; None for all.
        purpose: `need` takes the first persons, `audit` draws them at random, each with the same probability,
            and gives the frames an order that is random, too.
        queue: The page's queue that persons have to be in, and in whose order the first ones are taken.

    Raises:
        ConfigError: A condition is wrong, nobody fits, or the output has no consolidated table.
    """
    source = consolidated(store)
    with duckdb.connect() as database, condition_errors():
        database.execute("SET TimeZone = 'UTC'")
        everybody = database.from_arrow(source)
        persons = everybody.filter(duckdb.ColumnExpression("is_person"))
        order = QUEUES[queue]
        fitting = fitting_persons(database, everybody, conditions, schema, computed=queue != "all")
        columns = fitting.columns
        fitting = fitting.filter(duckdb.ColumnExpression("is_person")).filter(order.condition)
        keys: pa.Table = fitting.order(order.ordered(_ORDER)).select(*_KEYS).to_arrow_table()
        available = keys.num_rows
        if not available:
            asked = f"--select {', '.join(conditions)}" if conditions else f"--output {store.uri}"
            if queue != "all":
                asked += f" --queue {queue}"
            raise ConfigError(f"{asked}: {nobody(conditions, schema)}")
        if limit is not None and limit < available:
            keys = keys.take(_positions(available, limit, purpose))
        frames = database.from_arrow(keys).select("shard_id", "frame_key").distinct()
        rows: pa.Table = (
            persons.join(frames, "shard_id, frame_key", how="semi").order(_ORDER).to_arrow_table()
        )
    chosen = [tuple(row.values()) for row in keys.to_pylist()]
    # A frame comes where the first of its chosen persons does.
    places = list(dict.fromkeys(key[:2] for key in chosen))
    draw = None
    if purpose == "audit":
        # So an audit that is stopped early is about a random sample, too. Frames with many people come no
        # earlier than others.
        np.random.default_rng().shuffle(places)
        draw = Draw(name=uuid.uuid4().hex, among=among_of(conditions, columns))
    place = {key: number for number, key in enumerate(places)}
    in_order = sorted(rows.to_pylist(), key=lambda row: place[row["shard_id"], row["frame_key"]])
    return Selection(in_order, frozenset(chosen), available, draw)


def among_of(conditions: Sequence[str], columns: Collection[str]) -> Among:
    """Return conditions as a draw records them.

    Raises:
        ConfigError: One is no condition.
    """
    return among([(comparison_in(condition, columns),) for condition in conditions])


def consolidated(store: ObjectStore, folder: str = layout.CONSOLIDATED) -> ds.Dataset:
    """Return the consolidated persons of an output, or the frames that are in another folder.

    Raises:
        ConfigError: It has none.
    """
    paths = SnapshotTable(store, folder).paths()
    if not paths:
        what = "persons" if folder == layout.CONSOLIDATED else "frames"
        raise ConfigError(f"--output {store.uri}: it has no consolidated {what}; run shopframe consolidate")
    return ds.dataset([store.full(path) for path in paths], filesystem=store.fs, format="parquet")


def fitting_persons(
    database: duckdb.DuckDBPyConnection,
    persons: duckdb.DuckDBPyRelation,
    conditions: Sequence[str],
    schema: AttributeSchema,
    *,
    computed: bool = False,
) -> duckdb.DuckDBPyRelation:
    """Return the persons for whom all conditions hold.

    Args:
        database: The database of the relation.
        persons: Consolidated rows.
        conditions: Conditions on their columns, or on those of `with_computed_columns`.
        schema: The attributes of the last run.
        computed: Whether the columns of `with_computed_columns` are wanted even if no condition names one.

    Raises:
        ConfigError: A condition is no condition, or names no column.
    """
    names = [match[1] for condition in conditions if (match := _CONDITION.fullmatch(condition))]
    if computed or not set(names) <= set(persons.columns):
        persons = with_computed_columns(database, persons, schema)
    for condition in conditions:
        try:
            persons = persons.filter(expression(comparison_in(condition, persons.columns), persons))
        except _UnknownColumnError as error:
            raise ConfigError(f"--select {condition}: {error}") from None
    return persons


def nobody(conditions: Sequence[str], schema: AttributeSchema) -> str:
    """Return what is said if nobody fits: a value that no person can have, if there is one."""
    of_name = {attribute.name: attribute for attribute in schema}
    for condition in conditions:
        name, sign, value = match.groups() if (match := _CONDITION.fullmatch(condition)) else ("", "", "")
        attribute = of_name.get(name)
        if sign != "=" or attribute is None or attribute.type != "category":
            continue
        if value not in (*attribute.values, "null"):
            return f"{value} is no value of {name}; choose {attribute.choices}"
    return "there is no such person, so nothing was exported; select others"


@contextmanager
def condition_errors() -> Iterator[None]:
    """Turn the error of a value that its column can't have, found while rows are read, into a ConfigError."""
    try:
        yield
    except duckdb.ConversionException as error:
        raise ConfigError(f"--select: {str(error).splitlines()[0]}") from None


def _breaks(rules: duckdb.Expression, value: str | None) -> duckdb.Expression:
    """Return whether a rule is among those that are broken; `any` stands for any of them, `null` for none."""
    count = duckdb.FunctionExpression("len", rules)
    if value in ("any", None):
        found: duckdb.Expression = count > 0 if value == "any" else count == 0
        return found
    return duckdb.FunctionExpression("list_contains", rules, duckdb.ConstantExpression(value))


def _positions(available: int, limit: int, purpose: Purpose) -> pa.Array:
    if purpose == "need":
        return pa.array(range(limit))
    return pa.array(np.random.default_rng().choice(available, limit, replace=False))


def comparison_in(condition: str, columns: Collection[str]) -> Comparison:
    """Return a condition as a comparison.

    Args:
        condition: The condition as written.
        columns: The columns of persons. One that is on the right is compared with.

    Raises:
        ConfigError: It is no condition.
    """
    match = _CONDITION.fullmatch(condition)
    if match is None:
        raise ConfigError(f"--select {condition}: write it as column=value, with one of = != < <= > >=")
    name, sign, value = match[1], cast(Operator, match[2]), match[3]
    if value == "null" and sign in ("=", "!="):
        return Comparison(column=name, operator=sign)
    if value in columns and name != RULE:
        return Comparison(column=name, operator=sign, other=value)
    return Comparison(column=name, operator=sign, value=value)


class _UnknownColumnError(Exception):
    """Persons have no such column."""


def expression(
    comparison: Comparison, persons: duckdb.DuckDBPyRelation, *, is_lenient: bool = False
) -> duckdb.Expression:
    """Return a comparison as an expression of the columns of persons.

    Args:
        comparison: The comparison.
        persons: The persons.
        is_lenient: Whether a value that the column can't have stands for no value, as on the page. By
            default it is an error when the persons are read.
    """
    name, sign, value = comparison.column, comparison.operator, comparison.value
    types = dict(zip(persons.columns, persons.types, strict=True))
    if name not in types:
        near = difflib.get_close_matches(name, types, n=3)
        meant = f"did you mean {' or '.join(near)}? " if near else ""
        raise _UnknownColumnError(
            f"persons have no column {name}; {meant}they have {', '.join(sorted(types))}"
        )
    column = duckdb.ColumnExpression(name)
    if name == RULE and sign in ("=", "!=") and isinstance(types[name].id, str) and types[name].id == "list":
        return _breaks(column, value) if sign == "=" else ~_breaks(column, value)
    if comparison.other is not None:
        # Two columns, of which null is no value that could differ.
        compared: duckdb.Expression = _COMPARISONS[sign](column, duckdb.ColumnExpression(comparison.other))
        return compared
    if value is None:
        return column.isnull() if sign == "=" else column.isnotnull()
    if is_lenient:
        compared_with = "IS DISTINCT FROM" if sign == "!=" else sign
        return duckdb.SQLExpression(
            f"{quoted(name)} {compared_with} TRY_CAST({literal(value)} AS {types[name]})"
        )
    constant = duckdb.ConstantExpression(value).cast(types[name])
    if sign == "!=":
        # No value is another value than any.
        return (column != constant) | column.isnull()
    found: duckdb.Expression = _COMPARISONS[sign](column, constant)
    return found
