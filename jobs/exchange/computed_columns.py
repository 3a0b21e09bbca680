"""Columns that follow from consolidated ones: how certain, disputed or rare values are, what they break."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

import duckdb

from actors.attribute import AttributeValue
from actors.attributes import AttributeSchema
from actors.corrections.draw import Among, compared_columns
from actors.corrections.final_values import CORRECTED_BOX, IS_PERSON, SOURCE
from jobs.exchange.person_queries import (
    BROKEN_UNSEEN,
    DISAGREES,
    PersonQueries,
    attributes_of_rule,
    breaking,
    create_rule_table,
    literal,
    quoted,
    rule_table,
)

RULE = "rule"
"""The column of the rules that a person's values break, as a list of their texts."""

_JUDGED = ("certainty", "disagreement", "rarity", "decided", BROKEN_UNSEEN)
_FROM_FINAL_VALUES = (*_JUDGED, RULE, IS_PERSON, CORRECTED_BOX)
_HOURS = {
    "hour": "hour(captured_at AT TIME ZONE 'UTC')",
    "day": "(captured_at AT TIME ZONE 'UTC')::DATE",
}
_KEYS = ("shard_id", "frame_key", "person_index")
_BASE = "persons_with_answers"


def with_computed_columns(
    database: duckdb.DuckDBPyConnection, persons: duckdb.DuckDBPyRelation, schema: AttributeSchema
) -> duckdb.DuckDBPyRelation:
    """Return persons with more columns, which the page has too.

    These are `certainty`, `disagreement`, `rarity`, `decided`, `rule`, `broken_unseen`, `hour` and `day` in
    UTC, and `<attribute>_disagrees`. A column of the persons comes before a computed one of the same name.

    Args:
        database: The database of the relation. It is given a copy of the persons, so this works once.
        persons: Rows of the consolidated table. The share of a value is that among them.
        schema: The attributes, with their rules.
    """
    known = final_attributes(schema, persons.columns)
    persons = with_hours(persons)
    persons.create(_BASE)
    queries = PersonQueries(known, persons.columns)
    database.execute(queries.create_source_type())
    for number, rule in enumerate(known.rules):
        database.execute(create_rule_table(number, rule, known))
    note_combinations(database, known, _BASE)
    computed = queries.rows(_BASE, "0", value_shares(database, queries, _BASE))
    broken = [
        f"CASE WHEN (c.broken & {1 << number}) <> 0 THEN {literal(rule.text)} END"
        for number, rule in enumerate(known.rules)
    ]
    columns = {
        **{name: f"c.{name}" for name in _JUDGED},
        **{f"{a.name}_{DISAGREES}": f"c.{quoted(f'{a.name}_{DISAGREES}')}" for a in known},
        RULE: f"list_filter([{', '.join(broken)}]::VARCHAR[], lambda one: one IS NOT NULL)",
    }
    chosen = [f"{text} AS {quoted(name)}" for name, text in columns.items() if name not in persons.columns]
    return database.sql(
        f"SELECT s.*, {', '.join(chosen)} FROM {_BASE} AS s JOIN ({computed}) AS c USING ({', '.join(_KEYS)})"
    )


def follows_from_final_values(column: str, schema: AttributeSchema) -> bool:
    """Return whether what a column says of a person may change with a decision about the person."""
    named = (*(f"{name}_" for name in schema.names),)
    return column in (*schema.names, *_FROM_FINAL_VALUES) or column.startswith(named)


def columns_by_values(among: Among, schema: AttributeSchema, annotators: Collection[str]) -> list[str]:
    """Return the columns of answers or final values by which the persons of a draw were filtered.

    Who was among them isn't known later, when decisions have changed values, or models have answered anew.
    So decisions about them say nothing about others.

    Args:
        among: The conditions of the draw.
        schema: The attributes.
        annotators: The annotators whose answers the table has, with which names of columns begin.
    """
    answers = tuple(f"{name}_" for name in annotators)
    return sorted(
        one
        for one in compared_columns(among)
        if one.startswith(answers) or follows_from_final_values(one, schema)
    )


def with_hours(persons: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """Return persons with their `hour` and `day` in UTC, unless they have such columns, or no times."""
    chosen = [f"{text} AS {name}" for name, text in _HOURS.items() if name not in persons.columns]
    if not chosen or "captured_at" not in persons.columns:
        return persons
    return persons.project(f"*, {', '.join(chosen)}")


def final_attributes(schema: AttributeSchema, columns: list[str]) -> AttributeSchema:
    """Return the attributes that consolidated columns have: the last run may know others."""
    return schema.only([name for name in schema.names if f"{name}_{SOURCE}" in columns])


def note_combinations(database: duckdb.DuckDBPyConnection, schema: AttributeSchema, relation: str) -> None:
    """Remember in the tables of the rules which combinations of values in a relation break them."""
    for number, rule in enumerate(schema.rules):
        names = ", ".join(map(quoted, attributes_of_rule(rule)))
        found = database.execute(
            f"SELECT DISTINCT {names} FROM {relation} EXCEPT SELECT {names} FROM {rule_table(number)}"
        ).fetchall()
        for combination in breaking(rule, found):
            marks = ", ".join("?" for _ in combination)
            database.execute(f"INSERT INTO {rule_table(number)} VALUES ({marks}, true)", list(combination))


def value_shares(
    database: duckdb.DuckDBPyConnection, queries: PersonQueries, relation: str
) -> dict[str, dict[AttributeValue, float]]:
    """Return the share of each value in a relation, by attribute."""
    shares: defaultdict[str, dict[AttributeValue, float]] = defaultdict(dict)
    for attribute in queries.judged:
        name = quoted(attribute.name)
        found = database.execute(
            f"SELECT {name}, count(*) FROM {relation} WHERE {name} IS NOT NULL GROUP BY ALL"
        ).fetchall()
        total = sum(count for _, count in found)
        shares[attribute.name] = {value: count / total for value, count in sorted(found)}
    return dict(shares)
