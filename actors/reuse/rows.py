"""Rows of an annotations table for persons who inherit an answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actors.reuse.groups import CropGroups

_OWN = ("shard_id", "frame_key", "person_index")
_SPENT = ("input_tokens", "output_tokens", "cost_usd")

Rows = dict[int, dict[str, Any]]
"""Rows of an annotations table by the position of their person among the kept ones."""


def answered_themselves(rows: Rows) -> list[int]:
    """Return the persons whose answer is about their own crop, so that others can inherit it."""
    return [person for person, row in rows.items() if row["status"] == "ok"]


def inherited_row(
    source: Mapping[str, Any], person: Mapping[str, Any], group: str | None, similarity: float
) -> dict[str, Any]:
    """Return the row of a person who inherits an answer. It has cost nothing.

    Args:
        source: Row of the person whose answer it is.
        person: Row of the person with the key columns.
        group: Name of their group.
        similarity: How alike their crops are (0..1).
    """
    return {
        **source,
        **{name: person[name] for name in _OWN},
        **{name: 0.0 for name in _SPENT if name in source},
        "status": "inherited",
        "reuse_group": group,
        "reuse_similarity": similarity,
    }


def with_group_names(rows: Rows, groups: CropGroups) -> list[dict[str, Any]]:
    """Return the rows of all persons in order, each with the name of its group."""
    return [rows[person] | {"reuse_group": groups.name(person)} for person in sorted(rows)]
