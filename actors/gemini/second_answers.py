"""Persons who are asked about once more since their answer breaks a rule, and the better of both answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from actors.attributes import AttributeSchema
from actors.gemini.answer_journal import JournalEntry
from actors.records import Annotation


def broken_rules(annotation: Annotation, schema: AttributeSchema) -> int:
    """Return how many rules an answer breaks. An outcome without an answer breaks none."""
    return len(schema.violations(annotation.values)) if annotation.status == "ok" else 0


def better_of(first: JournalEntry, second: JournalEntry, schema: AttributeSchema) -> JournalEntry:
    """Return the one of two answers about a crop that breaks fewer rules, with the cost of both."""
    broken = broken_rules(first.annotation, schema)
    is_better = second.annotation.status == "ok" and broken_rules(second.annotation, schema) < broken
    kept, other = (second, first) if is_better else (first, second)
    return replace(
        kept,
        input_tokens=kept.input_tokens + other.input_tokens,
        output_tokens=kept.output_tokens + other.output_tokens,
        cost_usd=kept.cost_usd + other.cost_usd,
        answers=2,
    )


class SecondAnswers:
    """Remembers first answers that break a rule, until the second ones come.

    Args:
        schema: The attributes and their rules.
        is_on: Whether anybody is asked about again.
    """

    def __init__(self, schema: AttributeSchema, is_on: bool) -> None:
        self._schema = schema
        self._is_on = is_on
        self._first: dict[str, JournalEntry] = {}

    def know(self, paid: Mapping[str, JournalEntry]) -> None:
        """Take answers of an earlier run, by crop digest; their crops may be in an open job once more."""
        if self._is_on:
            self._first |= paid

    def joined(self, entry: JournalEntry) -> JournalEntry:
        """Return the better one of this answer and the first one about its crop, if there was another."""
        first = self._first.get(entry.crop_sha256)
        if first is None or (first.request_id == entry.request_id and first.request_id is not None):
            return entry
        # With two answers, a run that was killed then has read the job before.
        return first if first.answers > 1 else better_of(first, entry, self._schema)

    def is_wanted(self, entry: JournalEntry) -> bool:
        """Return whether the crop of an answer should be asked about once more."""
        is_known = entry.crop_sha256 in self._first
        if not self._is_on or is_known or not broken_rules(entry.annotation, self._schema):
            return False
        self._first[entry.crop_sha256] = entry
        return True
