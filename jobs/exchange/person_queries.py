"""The SQL by which a table of persons for the page follows from consolidated rows."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence

from actors.attribute import Attribute, AttributeValue
from actors.attribute_rules import Rule
from actors.attributes import AttributeSchema
from actors.corrections.final_values import CONFIDENCE, CORRECTED_BOX, IS_PERSON, SOURCE
from actors.corrections.settings import ABSTAINED, AGREEMENT, HUMAN
from actors.records import ANSWERED

DISAGREES = "disagrees"
KEPT = "kept"
BROKEN_UNSEEN = "broken_unseen"
"""The rules that a person's values break and of whose attributes nobody has decided all, as bits."""

Shares = Mapping[str, Mapping[AttributeValue, float]]
"""The share of each value among all persons, by attribute."""

_GUESSED = 0.5
"""Stands for the confidence of an answer without one, in the weight of a disagreement."""


def quoted(name: str) -> str:
    """Return a name as an identifier of SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: AttributeValue) -> str:
    """Return a value as a literal of SQL."""
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return str(value).upper()


def attributes_of_rule(rule: Rule) -> tuple[str, ...]:
    """Return the attributes that a rule is about, in a fixed order."""
    return tuple(dict.fromkeys(name for c in rule.constraints for name in (c.first, c.second)))


def annotators_in(columns: Collection[str]) -> tuple[str, ...]:
    """Return the annotators whose answers consolidated rows have."""
    ending = "_status"
    return tuple(sorted(name.removesuffix(ending) for name in columns if name.endswith(ending)))


class PersonQueries:
    """The SQL for one schema and the columns of one consolidated version.

    Args:
        schema: The attributes.
        columns: Names of the consolidated columns.
    """

    def __init__(self, schema: AttributeSchema, columns: Collection[str]) -> None:
        self._schema = schema
        self._columns = columns
        self.annotators = annotators_in(columns)
        # Two guesses of a number are rarely equal, and no single number is certain.
        self.judged = tuple(a for a in schema if a.type != "integer")

    def create_source_type(self) -> str:
        """Return the statement that creates the type of sources, which takes a byte instead of sixteen."""
        names = ", ".join(map(literal, (HUMAN, AGREEMENT, ABSTAINED, *self.annotators)))
        return f"CREATE TYPE value_source AS ENUM ({names})"

    def rows(self, relation: str, identity: str, shares: Shares) -> str:
        """Return a query of the persons in a relation of consolidated rows.

        Args:
            relation: Name of the relation.
            identity: Expression of a row's id.
            shares: The share of each value, by which values are rare.
        """
        rules = range(len(self._schema.rules))
        joins = " ".join(
            f"LEFT JOIN {rule_table(n)} AS r{n} ON "
            + " AND ".join(
                f"p.{quoted(name)} IS NOT DISTINCT FROM r{n}.{quoted(name)}"
                for name in attributes_of_rule(rule)
            )
            for n, rule in enumerate(self._schema.rules)
        )
        hits = {1 << n: f"(r{n}.broken IS NOT NULL)" for n in rules}
        broken = " + ".join(f"{hit}::INTEGER * {bit}" for bit, hit in hits.items()) or "0"
        # People have seen a violation if they have decided all values that it is about.
        undecided = {
            1 << n: " OR ".join(map(self._open, attributes_of_rule(rule)))
            for n, rule in enumerate(self._schema.rules)
        }
        unseen = " + ".join(f"({hit} AND ({undecided[bit]}))::INTEGER * {bit}" for bit, hit in hits.items())
        plain = f"SELECT {identity} AS id, {', '.join(self._plain())} FROM {relation}"
        return (
            f"SELECT p.*, {self._certainty()} AS certainty, {self._disagreement()} AS disagreement, "
            f"{self._rarity(shares)} AS rarity, {self._is_decided()} AS decided, "
            f"({broken})::INTEGER AS broken, ({unseen or '0'})::INTEGER AS {BROKEN_UNSEEN} "
            f"FROM ({plain}) AS p {joins}"
        )

    def _plain(self) -> Iterator[str]:
        yield from ("shard_id", "frame_key", "person_index", "camera", "bbox", "score", IS_PERSON)
        # Without a time zone, an hour is that of UTC.
        yield "(captured_at AT TIME ZONE 'UTC') AS captured_at"
        yield CORRECTED_BOX
        yield f"'{KEPT}' AS verdict"
        for attribute in self._schema:
            name = attribute.name
            yield quoted(name)
            yield f"TRY_CAST({quoted(f'{name}_{SOURCE}')} AS value_source) AS {quoted(f'{name}_{SOURCE}')}"
            yield quoted(f"{name}_{CONFIDENCE}")
            yield f"{self._disagrees(attribute)} AS {quoted(f'{name}_{DISAGREES}')}"
            if attribute in self.judged:
                yield f"{self._weight(attribute)} AS {quoted(f'{name}_weight')}"

    def _pairs(self, attribute: Attribute) -> Iterator[tuple[str, str]]:
        answering = [name for name in self.annotators if f"{name}_{attribute.name}" in self._columns]
        yield from itertools.combinations(answering, 2)

    def _disagrees(self, attribute: Attribute) -> str:
        differing = [
            f"(coalesce({quoted(f'{one}_status')} IN {ANSWERED}, false) AND "
            f"coalesce({quoted(f'{other}_status')} IN {ANSWERED}, false) AND "
            f"{quoted(f'{one}_{attribute.name}')} IS DISTINCT FROM {quoted(f'{other}_{attribute.name}')})"
            for one, other in self._pairs(attribute)
        ]
        return f"({' OR '.join(differing)})" if differing else "false"

    def _weight(self, attribute: Attribute) -> str:
        """Return the mean confidence of the answers, which says how much a disagreement weighs."""
        columns = [f"{name}_{CONFIDENCE}_{attribute.name}" for name in self.annotators]
        sure = [
            f"coalesce({quoted(c)}, {_GUESSED})" if c in self._columns else f"{_GUESSED}" for c in columns
        ]
        return f"(({' + '.join(sure)}) / {len(sure)})::FLOAT" if sure else "0::FLOAT"

    def _open(self, name: str) -> str:
        """Return whether nobody has decided an attribute."""
        return f"p.{quoted(f'{name}_{SOURCE}')} IS DISTINCT FROM '{HUMAN}'"

    def _certainty(self) -> str:
        """Return how certain the least certain attribute is that nobody has decided.

        A confidence of 1 / the number of values, as of a guess, counts as 0, so that attributes with any
        number of values compare.
        """
        scaled = [
            f"CASE WHEN {sure} IS NOT NULL AND {self._open(a.name)} THEN "
            f"greatest(0, ({sure} * {len(a.values)} - 1) / {len(a.values) - 1}) END"
            for a in self.judged
            if (sure := f"p.{quoted(f'{a.name}_{CONFIDENCE}')}")
        ]
        return f"least({', '.join([*scaled, 'NULL'])})::FLOAT"

    def _disagreement(self) -> str:
        terms = [
            f"(CASE WHEN p.{quoted(f'{a.name}_{DISAGREES}')} AND {self._open(a.name)} "
            f"THEN p.{quoted(f'{a.name}_weight')} ELSE 0 END)"
            for a in self.judged
        ]
        return f"({' + '.join(terms) or '0'})::FLOAT"

    def _rarity(self, shares: Shares) -> str:
        rare = [
            f"CASE WHEN {self._open(a.name)} THEN CASE p.{quoted(a.name)} "
            + " ".join(f"WHEN {literal(value)} THEN {share:.9f}" for value, share in of.items())
            + " END END"
            for a in self.judged
            if (of := shares.get(a.name))
        ]
        return f"least({', '.join([*rare, '1'])})::FLOAT"

    def _is_decided(self) -> str:
        human = [f"p.{quoted(f'{a.name}_{SOURCE}')} = '{HUMAN}'" for a in self._schema]
        others = [f"NOT p.{IS_PERSON}", f"p.{CORRECTED_BOX} IS NOT NULL"]
        return f"coalesce({' OR '.join([*human, *others])}, false)"


def rule_table(number: int) -> str:
    """Return the name of the table with the values that break a rule."""
    return f"rule_{number}"


def create_rule_table(number: int, rule: Rule, schema: AttributeSchema) -> str:
    """Return the statement that creates this table."""
    types = {"category": "VARCHAR", "boolean": "BOOLEAN", "integer": "SMALLINT"}
    kinds = {a.name: types[a.type] for a in schema}
    columns = [f"{quoted(name)} {kinds[name]}" for name in attributes_of_rule(rule)]
    return f"CREATE TABLE {rule_table(number)} ({', '.join([*columns, 'broken BOOLEAN'])})"


def breaking(
    rule: Rule, combinations: Sequence[Sequence[AttributeValue]]
) -> list[tuple[AttributeValue, ...]]:
    """Return the combinations of a rule's attributes that break it."""
    names = attributes_of_rule(rule)
    return [tuple(c) for c in combinations if not rule.holds(dict(zip(names, c, strict=True)))]
