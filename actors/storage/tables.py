"""Rows to Arrow tables, tables to Parquet bytes, and the schema of the annotations."""

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from actors.attributes import AttributeSchema
from actors.records import SCHEMA_VERSION, Annotation

_ENUM = pa.dictionary(pa.int8(), pa.string())

_KEYS = [
    pa.field("shard_id", pa.string(), nullable=False),
    pa.field("frame_key", pa.string(), nullable=False),
    pa.field("person_index", pa.int32(), nullable=False),
]


METERED = ("gemini",)
"""Annotators that are paid by the token."""

_METER = [
    pa.field("input_tokens", pa.float32()),
    pa.field("output_tokens", pa.float32()),
    pa.field("cost_usd", pa.float64()),
]


def annotations_schema(schema: AttributeSchema, annotator: str = "") -> pa.Schema:
    """Schema of `annotations/<annotator>/`: one row a kept person.

    Keys, outcome, provenance, then one column an attribute and one `confidence_<name>` for each. Of
    those paid by the token also the person's equal share of the request's tokens and of its estimated
    price in US dollars.
    """
    return pa.schema(
        [
            *_KEYS,
            pa.field("status", _ENUM, nullable=False),
            pa.field("reason", pa.string()),
            pa.field("model", pa.string(), nullable=False),
            pa.field("model_version", pa.string(), nullable=False),
            pa.field("prompt_sha256", pa.string(), nullable=False),
            *schema.arrow_fields(),
            *schema.arrow_confidence_fields(),
            pa.field("reasoning", pa.string()),
            *(_METER if annotator in METERED else ()),
        ],
        metadata={"schema_version": SCHEMA_VERSION},
    )


def annotations_table(
    persons: pa.Table,
    annotations: Sequence[Annotation],
    schema: AttributeSchema,
    provenance: Mapping[str, object] | Sequence[Mapping[str, object]],
    annotator: str = "",
) -> pa.Table:
    """Join answers to the kept persons that they are about.

    Args:
        persons: The kept rows of PERSONS_SCHEMA.
        annotations: One a row of `persons`, in the same order.
        schema: The attributes.
        provenance: `model`, `model_version`, `prompt_sha256`, and the columns of the metered; one for
            all, or one a row.
        annotator: Who answered, where that adds columns.

    Raises:
        ValueError: There are not as many annotations, or as much provenance, as persons.
    """
    keys = persons.select(["shard_id", "frame_key", "person_index"]).to_pylist()
    rows = []
    if isinstance(provenance, Mapping):
        provenance = [provenance] * len(annotations)
    for key, annotation, source in zip(keys, annotations, provenance, strict=True):
        confidence = {f"confidence_{name}": value for name, value in annotation.confidence.items()}
        rows.append(
            {
                **key,
                "status": annotation.status,
                "reason": annotation.reason,
                "reasoning": annotation.reasoning,
                **source,
                **annotation.values,
                **confidence,
            }
        )
    return pa.Table.from_pylist(rows, schema=annotations_schema(schema, annotator))


def to_parquet(table: pa.Table) -> bytes:
    """The table as one zstd-compressed row group; equal tables give equal bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=max(1, table.num_rows))
    return bytes(sink.getvalue())


def from_parquet(content: bytes) -> pa.Table:
    """Read back what `to_parquet` wrote, dictionary columns included."""
    return pq.read_table(pa.BufferReader(content))
