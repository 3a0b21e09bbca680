"""Exports to review tools: any schema and any single change, and files as each tool would save them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from actors.attribute_settings import SchemaSettings
from actors.attributes import AttributeSchema
from jobs.exchange.exported import Exported, ExportedFrame, ExportedPerson
from jobs.exchange.seen import SeenFrame
from jobs.exchange.tools import TOOLS

_names = st.one_of(
    st.from_regex(r"[a-z][a-z_0-9]{0,8}", fullmatch=True).map(lambda name: f"x{name}"),
    st.sampled_from(["person_id", "not_a_person", "image", "label", "person", "x__y"]),
)
_texts = st.text(st.characters(categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=12).filter(
    lambda text: text == text.strip() and text.isprintable()
)
_values = st.lists(
    st.one_of(_texts, st.sampled_from(["null", "true", "41", '"', "<b>&amp;", "a;b,c"])),
    min_size=2,
    max_size=6,
    unique=True,
)
_attributes = st.one_of(
    _values.map(lambda some: {"type": "category", "values": some}),
    st.booleans().map(lambda nullable: {"type": "boolean", "nullable": nullable}),
    st.booleans().map(lambda nullable: {"type": "integer", "min": -5, "max": 40, "nullable": nullable}),
)
schemas = st.dictionaries(_names, _attributes, min_size=1, max_size=4).map(
    lambda drawn: AttributeSchema(SchemaSettings.model_validate({"attributes": drawn}))
)


def export_of(tool: str, schema: AttributeSchema, count: int) -> Exported:
    """Return an export of one frame with a crowd whose values, nulls among them, take turns."""
    persons = tuple(
        ExportedPerson(
            person_id=f"a/f/{number}",
            bbox=(0.001 * number, 0.1, 0.001 * number + 0.05, 0.9),
            box=(0.001 * number, 0.1, 0.001 * number + 0.05, 0.9),
            detection="001-00000000",
            values={a.name: (*a.values, None)[number % (len(a.values) + 1)] for a in schema},
        )
        for number in range(count)
    )
    frame = ExportedFrame(
        file_name="a.f.jpg",
        size_bytes=1,
        shard_id="a",
        frame_key="f",
        width=1920,
        height=1080,
        persons=persons,
    )
    return Exported(format=tool, output="out", attributes=schema.to_json(), frames=(frame,))


def with_persons(exported: Exported, persons: list[ExportedPerson]) -> Exported:
    """Return an export whose frame has other persons."""
    frame = exported.frames[0].model_copy(update={"persons": tuple(persons)})
    return exported.model_copy(update={"frames": (frame,)})


def saved(exported: Exported, beginning: str = "") -> Iterator[tuple[str, bytes]]:
    """Yield the files of an export as the tool saves them, if everything is looked at and submitted.

    Args:
        exported: The export.
        beginning: How the names of the files begin that the tool opens.
    """
    tool = TOOLS[exported.format]
    for name, content in tool.files(exported, None):
        if name.endswith(tool.suffix) and name.startswith(beginning):
            yield name, submitted(content) if exported.format == "labelstudio" else content


def submitted(tasks: bytes, **annotation: Any) -> bytes:
    """Return Label Studio's export after a reviewer has submitted each prediction."""
    done = []
    for number, task in enumerate(json.loads(tasks), start=1):
        (prediction,) = task["predictions"]
        given = {"id": number, "completed_by": 1, "was_cancelled": False, "ground_truth": False}
        given |= {"created_at": "2026-01-02T03:04:05.678Z", "updated_at": "2026-01-02T03:04:05.678Z"}
        given |= {"result": prediction["result"], "prediction": number} | annotation
        done.append({"id": number, "data": task["data"], "annotations": [given], "predictions": [number]})
    return json.dumps(done, ensure_ascii=False).encode()


def read_back(exported: Exported, files: Iterator[tuple[str, bytes]]) -> Iterator[SeenFrame]:
    """Yield what saved files of an export say."""
    for name, content in files:
        yield from TOOLS[exported.format].read(name, content, exported)
