"""Schemas of Arrow whose fields all refer to the same parts, of which a reader makes far more."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from flatbuffers import Builder

_VERSION_5, _SCHEMA, _INT, _STRUCT = 4, 1, 2, 13
_CHILDREN = 14
"""The flatbuffers verifier of Arrow refuses more."""


def shared_arrow_schema(fields: int, name_bytes: int = 1) -> bytes:
    """Return a schema with this many structs of 14 columns, as the value of ARROW:schema in a Parquet footer.

    Each struct is one reference of four bytes, and all names are the same one. Source of the tables:
    `Schema.fbs` and `Message.fbs` of Apache Arrow.
    """
    builder = Builder()
    name = builder.CreateString("a" * name_bytes)
    builder.StartObject(2)
    builder.PrependInt32Slot(0, 32, 0)
    integer = builder.EndObject()
    column = _field(builder, name, _INT, integer, _vector(builder, []))
    builder.StartObject(0)
    struct = builder.EndObject()
    whole = _field(builder, name, _STRUCT, struct, _vector(builder, [column] * _CHILDREN))
    listed = _vector(builder, [whole] * fields)
    builder.StartObject(2)
    builder.PrependUOffsetTRelativeSlot(1, listed, 0)
    schema = builder.EndObject()
    builder.StartObject(3)
    builder.PrependInt16Slot(0, _VERSION_5, 0)
    builder.PrependUint8Slot(1, _SCHEMA, 0)
    builder.PrependUOffsetTRelativeSlot(2, schema, 0)
    builder.Finish(builder.EndObject())
    message = bytes(builder.Output())
    message += bytes(-len(message) % 8)
    return base64.b64encode(b"\xff" * 4 + len(message).to_bytes(4, "little") + message)


def _vector(builder: Builder, tables: Sequence[int]) -> int:
    builder.StartVector(4, len(tables), 4)
    for table in reversed(tables):
        builder.PrependUOffsetTRelative(table)
    return int(builder.EndVector())


def _field(builder: Builder, name: int, kind: int, type_of_kind: int, children: int) -> int:
    builder.StartObject(6)
    builder.PrependUOffsetTRelativeSlot(0, name, 0)
    builder.PrependUint8Slot(2, kind, 0)
    builder.PrependUOffsetTRelativeSlot(3, type_of_kind, 0)
    builder.PrependUOffsetTRelativeSlot(5, children, 0)
    return int(builder.EndObject())
