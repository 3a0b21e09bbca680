"""The persons of the report's gallery: everybody, or a random sample of a large output."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

import duckdb

from actors.attribute import Attribute
from actors.corrections.final_values import CONFIDENCE, CORRECTED_BOX, IS_PERSON, SOURCE
from actors.corrections.matching import as_box
from actors.corrections.settings import HUMAN
from actors.records import ANSWERED
from actors.storage import layout
from jobs.reporting.measures import UNSURE, Measures, label, quoted
from jobs.reporting.thumbnails import Wanted

_SHARDS = 64
"""Shards that a sample is drawn from. To show a person, the shard is read up to the person's frame."""
_KEYS = ("shard_id", "frame_key", "person_index")


@dataclass(frozen=True, slots=True)
class Gallery:
    """Persons to show.

    Attributes:
        people: What is shown of each, as it is written into the page.
        wanted: What to cut, by shard. The name of a picture is the position in `people`.
        shards: Number of shards that a sample was drawn from; None if everybody is shown.
    """

    people: list[dict[str, Any]]
    wanted: dict[str, list[Wanted]]
    shards: int | None


def choose(measures: Measures, limit: int, timezone: str) -> Gallery:
    """Choose at most `limit` persons. More than that are drawn at random, the same ones each time.

    Args:
        measures: The consolidated tables.
        limit: Maximum number of persons.
        timezone: The time zone in which times are shown.
    """
    persons = measures.persons
    shards = None
    if measures.kept() > limit:
        counted = persons.aggregate("shard_id, count(*) AS n", "shard_id").order("hash(shard_id), shard_id")
        drawn: list[str] = []
        number = 0
        for batch in counted.to_arrow_reader():
            for row in batch.to_pylist():
                if number < limit or len(drawn) < _SHARDS:
                    drawn.append(row["shard_id"])
                    number += row["n"]
        shards = len(drawn)
        in_drawn = duckdb.ColumnExpression("shard_id").isin(*map(duckdb.ConstantExpression, drawn))
        persons = persons.filter(in_drawn).order("hash(shard_id, frame_key, person_index)").limit(limit)
    columns = [*_KEYS, "camera", "captured_at", "bbox", "score", IS_PERSON, CORRECTED_BOX]
    for attribute in measures.attributes:
        columns += [attribute.name, f"{attribute.name}_{SOURCE}", f"{attribute.name}_{CONFIDENCE}"]
    for name in measures.annotators:
        columns += [c for c in persons.columns if c.startswith(f"{name}_")]
    rows = persons.select(*map(quoted, dict.fromkeys(columns))).order(", ".join(_KEYS))
    people, wanted = [], defaultdict(list)
    for position, row in enumerate(rows.to_arrow_table().to_pylist()):
        box = row["bbox"] if row[CORRECTED_BOX] is None else row[CORRECTED_BOX]
        picture = Wanted(str(position), row["frame_key"], row["person_index"], as_box(box))
        wanted[row["shard_id"]].append(picture)
        people.append(_person(row, measures.attributes, measures.annotators, timezone))
    return Gallery(people, dict(wanted), shards)


def _person(
    row: dict[str, Any], attributes: Sequence[Attribute], annotators: Sequence[str], timezone: str
) -> dict[str, Any]:
    sources = [row[f"{a.name}_{SOURCE}"] for a in attributes]
    confidences = [row[f"{a.name}_{CONFIDENCE}"] for a in attributes]
    answers = {}
    for name in annotators:
        is_answered = row[f"{name}_status"] in ANSWERED
        answers[name] = {
            "status": row[f"{name}_status"],
            "values": [label(row.get(f"{name}_{a.name}")) if is_answered else None for a in attributes],
            "confidences": [_rounded(row.get(f"{name}_confidence_{a.name}")) for a in attributes],
            "note": row.get(f"{name}_reasoning" if is_answered else f"{name}_reason"),
            "violations": row.get(f"{name}_violations") or [],
        }
    given = [answer["values"] for answer in answers.values() if answer["status"] in ANSWERED]
    traits = {
        "differ": any(len(set(values)) > 1 for values in zip(*given, strict=True)),
        "violation": any(answer["violations"] for answer in answers.values()),
        "unsure": any(c is not None and c < UNSURE for c in confidences),
        "human": HUMAN in sources or not row[IS_PERSON] or row[CORRECTED_BOX] is not None,
        "no-person": not row[IS_PERSON],
    }
    time = row["captured_at"]
    return {
        "id": f"{row['shard_id']}/{layout.object_name(row['frame_key'])}/{row['person_index']}",
        "camera": row["camera"] or "",
        "time": "" if time is None else f"{time.astimezone(ZoneInfo(timezone)):%Y-%m-%d %H:%M:%S} {timezone}",
        "values": [
            None if source is None else label(row[a.name])
            for a, source in zip(attributes, sources, strict=True)
        ],
        "sources": sources,
        "confidences": [_rounded(confidence) for confidence in confidences],
        "answers": answers,
        "traits": [trait for trait, holds in traits.items() if holds],
    }


def _rounded(confidence: float | None) -> float | None:
    return None if confidence is None else round(confidence, 3)
