"""What a page shows: persons that fit conditions, in the order of a queue."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from actors.attribute import AttributeValue
from actors.attributes import AttributeSchema
from actors.corrections.draw import Comparison, Draw, Operator, among
from actors.corrections.final_values import CONFIDENCE, IS_PERSON, SOURCE
from actors.errors import ConfigError
from jobs.exchange.person_queries import DISAGREES, KEPT, quoted
from jobs.exchange.queues import QUEUES, QueueName

VERDICT = "verdict"
RULE = "rule"

_SQL_OPERATORS = {"=": "=", "!=": "IS DISTINCT FROM", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_FIXED = {
    "camera": "VARCHAR",
    "captured_at": "TIMESTAMP",
    "hour": "INTEGER",
    "day": "DATE",
    IS_PERSON: "BOOLEAN",
    "decided": "BOOLEAN",
    "certainty": "FLOAT",
    "rarity": "FLOAT",
    VERDICT: "VARCHAR",
    "shard_id": "VARCHAR",
    "frame_key": "VARCHAR",
}
_COMPUTED = {"hour": "hour(captured_at)", "day": "captured_at::DATE"}


_IS_KEPT = Comparison(column=VERDICT, value=KEPT)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Condition(_Part):
    """A condition on a column, such as gender = female. A value of None stands for no value."""

    column: str = Field(max_length=200)
    operator: Operator = "="
    value: float | bool | int | str | None = None


class View(_Part):
    """A choice of persons, and their order.

    Attributes:
        queue: The order.
        conditions: What must hold. Of several equations of one column, one must hold.
        size: Number of persons that are drawn, for an audit.
        seed: Which sample is drawn, for an audit. The same persons are drawn again from the same table.
    """

    queue: QueueName = "all"
    conditions: tuple[Condition, ...] = Field((), max_length=200)
    size: int = Field(200, ge=1, le=100_000)
    seed: int = Field(1, ge=0, le=2**31 - 1)


@dataclass(frozen=True, slots=True)
class Where:
    """A condition in SQL with its parameters."""

    text: str
    parameters: tuple[object, ...]


class Conditions:
    """Turns conditions into SQL. Columns are checked, and values are only ever parameters.

    Args:
        schema: The attributes.
    """

    def __init__(self, schema: AttributeSchema) -> None:
        self._rules = {rule.text: 1 << number for number, rule in enumerate(schema.rules)}
        self._types = dict(_FIXED)
        kinds = {"category": "VARCHAR", "boolean": "BOOLEAN", "integer": "INTEGER"}
        for attribute in schema:
            self._types[attribute.name] = kinds[attribute.type]
            self._types[f"{attribute.name}_{SOURCE}"] = "VARCHAR"
            self._types[f"{attribute.name}_{CONFIDENCE}"] = "FLOAT"
            self._types[f"{attribute.name}_{DISAGREES}"] = "BOOLEAN"

    def where(self, view: View, without: str | None = None) -> Where:
        """Return the condition of a view. Only kept detections of persons are shown unless it says otherwise.

        Args:
            view: The view.
            without: A column whose conditions are left out.

        Raises:
            ConfigError: A condition names no column, or has a value of another type.
        """
        given = [c for c in view.conditions if c.column != without]
        # Bars of a chart are also of those who are left out otherwise.
        named = {condition.column for condition in view.conditions}
        parts: list[str] = [f"({QUEUES[view.queue].condition})"]
        parameters: list[object] = []
        if VERDICT not in named and without != VERDICT:
            parts.append(f"{VERDICT} = '{KEPT}'")
        # Whom an audit draws must not depend on what was decided since.
        if IS_PERSON not in named and without != IS_PERSON and view.queue != "audit":
            parts.append(f"{IS_PERSON} IS NOT FALSE")
        for column in dict.fromkeys(condition.column for condition in given):
            of_column = [condition for condition in given if condition.column == column]
            equations = [self._one(c, parameters) for c in of_column if c.operator == "="]
            if equations:
                parts.append(f"({' OR '.join(equations)})")
            parts += [self._one(c, parameters) for c in of_column if c.operator != "="]
        return Where(" AND ".join(parts), tuple(parameters))

    def expression(self, column: str) -> str:
        """Return a column in SQL.

        Raises:
            ConfigError: There is no such column.
        """
        if column not in self._types:
            raise ConfigError(f"there is no column {column}; there are {', '.join(sorted(self._types))}")
        return _COMPUTED.get(column, quoted(column))

    def _one(self, condition: Condition, parameters: list[object]) -> str:
        if condition.column == RULE:
            return self._rule(condition.value)
        column = self.expression(condition.column)
        if condition.value is None:
            if condition.operator not in ("=", "!="):
                raise ConfigError(f"{condition.column}: no value is neither more nor less than another one")
            return f"{column} IS {'NOT ' * (condition.operator == '!=')}NULL"
        # Compared as text, a value that the type of sources lacks is no error.
        kind = self._types[condition.column]
        if kind == "VARCHAR":
            column = f"{column}::VARCHAR"
        parameters.append(_as_text(condition.value))
        return f"{column} {_SQL_OPERATORS[condition.operator]} TRY_CAST(? AS {kind})"

    def _rule(self, value: object) -> str:
        if value is None:
            return "broken = 0"
        if value == "any":
            return "broken <> 0"
        if value not in self._rules:
            raise ConfigError(f"there is no rule {value}; there are {'; '.join(self._rules)}")
        return f"(broken & {self._rules[str(value)]}) <> 0"

    def rules(self) -> Iterator[tuple[str, int]]:
        """Yield each rule with its bit in the column `broken`."""
        yield from self._rules.items()


def draw_of(view: View) -> Draw:
    """Return the random draw of an audit's view."""
    equal: dict[str, list[Comparison]] = {}
    every: list[list[Comparison]] = []
    for condition in view.conditions:
        value = None if condition.value is None else _as_text(condition.value)
        made = Comparison(column=condition.column, operator=condition.operator, value=value)
        if made == _IS_KEPT:
            continue  # All persons of an output are.
        if condition.operator == "=":
            equal.setdefault(condition.column, []).append(made)
        else:
            every.append([made])
    return Draw(name=f"sample {view.seed}", among=among([*equal.values(), *every]))


def _as_text(value: AttributeValue | float) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
