"""Convert rows to Arrow tables and tables to Parquet, and define the schema of the annotations."""

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from actors.attribute import DISTRIBUTION_PREFIX
from actors.attributes import AttributeSchema
from actors.records import ANSWERED, SCHEMA_VERSION, Annotation

_ENUM = pa.dictionary(pa.int8(), pa.string())

_KEYS = [
    pa.field("shard_id", pa.string(), nullable=False),
    pa.field("frame_key", pa.string(), nullable=False),
    pa.field("person_index", pa.int32(), nullable=False),
]


_ATTRIBUTES = "attributes"
"""Key in the metadata of a table of annotations: the attributes as `AttributeSchema.to_json` writes them."""

_VIOLATIONS = pa.field("violations", pa.list_(pa.string()))
"""Rules of the schema that an answer breaks; null if there is no answer."""

_FORM_KEY = "form"
_FORM = "2"
_FIRST_FORM = "1"
"""The form of tables that don't name theirs: they have no `distribution_<name>` and no `violations`."""
_GROUPED_FORM = "3"
"""The form of tables whose persons were compared, to find those who are the same. They also have _REUSE."""

_REUSE = [pa.field("reuse_group", pa.string()), pa.field("reuse_similarity", pa.float32())]
"""The group of crops that show the same person, named by its clearest crop (`<frame_key>/<person_index>`),
and how alike an inheriting crop is to the one that was asked about."""

_MANY_VALUES = 1000
"""Values from which zstd makes a table smaller."""

METERED = ("gemini",)
"""Annotators that are paid by the token."""

_METER = [
    pa.field("input_tokens", pa.float32()),
    pa.field("output_tokens", pa.float32()),
    pa.field("cost_usd", pa.float64()),
]


def annotations_schema(schema: AttributeSchema, annotator: str = "", form: str = _FORM) -> pa.Schema:
    """Return the schema of `annotations/<annotator>/`, which has one row per kept person.

    The columns are the keys, the outcome, the provenance, and for each attribute its value, the probability
    of this value (`confidence_<name>`) and those of other values (`distribution_<name>`), and the rules that
    the answer breaks. Annotators that are paid by the token also have the person's equal share of the
    request's tokens and of its estimated price in US dollars. Where persons were compared, `reuse_group` and
    `reuse_similarity` say who is the same.

    Args:
        schema: The attributes.
        annotator: Name of the annotator.
        form: The form that the table was written in, as `form_of` returns it.
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
            *((*schema.arrow_distribution_fields(), _VIOLATIONS) if form != _FIRST_FORM else ()),
            pa.field("reasoning", pa.string()),
            *(_METER if annotator in METERED else ()),
            *(_REUSE if form == _GROUPED_FORM else ()),
        ],
        metadata={"schema_version": SCHEMA_VERSION, _ATTRIBUTES: schema.to_json(), _FORM_KEY: form},
    )


def form_of(table: pa.Table) -> str:
    """Return the form of a table of annotations, which says which columns it has beside the attributes."""
    form: bytes = (table.schema.metadata or {}).get(_FORM_KEY.encode(), _FIRST_FORM.encode())
    return form.decode()


def attributes_of(table: pa.Table, otherwise: AttributeSchema) -> AttributeSchema:
    """Return the attributes that a table of annotations was written with.

    Args:
        table: A table with the schema of `annotations_schema`, for any attributes.
        otherwise: Attributes to assume for a table of a version that didn't store them. Those without a
            column are left out.
    """
    stored = (table.schema.metadata or {}).get(_ATTRIBUTES.encode())
    if stored is None:
        return otherwise.only(table.column_names)
    return AttributeSchema.from_json(stored.decode())


def annotations_table(
    persons: pa.Table,
    annotations: Sequence[Annotation],
    schema: AttributeSchema,
    provenance: Mapping[str, object] | Sequence[Mapping[str, object]],
    annotator: str = "",
    grouped: bool = False,
) -> pa.Table:
    """Join the annotations with the keys of the kept persons that they describe.

    Args:
        persons: Table with PERSONS_SCHEMA that holds only kept persons.
        annotations: One annotation per row of `persons`, in the same order.
        schema: The attributes.
        provenance: `model`, `model_version` and `prompt_sha256`, and for an annotator in `METERED` its
            tokens and cost. Either one mapping for all rows, or one per row.
        annotator: Name of the annotator. An annotator in `METERED` adds columns to the schema.
        grouped: Whether persons were compared. The table then has columns for their groups.

    Raises:
        ValueError: The number of annotations or of provenance mappings differs from that of persons.
    """
    keys = persons.select(["shard_id", "frame_key", "person_index"]).to_pylist()
    rows = []
    if isinstance(provenance, Mapping):
        provenance = [provenance] * len(annotations)
    for key, annotation, source in zip(keys, annotations, provenance, strict=True):
        confidence = {f"confidence_{name}": value for name, value in annotation.confidence.items()}
        distribution = {
            f"{DISTRIBUTION_PREFIX}{name}": [{"value": v, "probability": share} for v, share in shares]
            for name, shares in annotation.distribution.items()
        }
        rows.append(
            {
                **key,
                "status": annotation.status,
                "reason": annotation.reason,
                "reasoning": annotation.reasoning,
                **source,
                **annotation.values,
                **confidence,
                **distribution,
                "violations": schema.violations(annotation.values) if annotation.status in ANSWERED else None,
            }
        )
    form = _GROUPED_FORM if grouped else _FORM
    return pa.Table.from_pylist(rows, schema=annotations_schema(schema, annotator, form))


def to_parquet(table: pa.Table) -> bytes:
    """Return the table as Parquet with one row group. Equal tables give equal bytes.

    It is compressed by zstd, except for a table of few values, which would only become larger.
    """
    sink = pa.BufferOutputStream()
    compression = "zstd" if table.num_rows * table.num_columns >= _MANY_VALUES else "none"
    pq.write_table(table, sink, compression=compression, row_group_size=max(1, table.num_rows))
    return bytes(sink.getvalue())


def from_parquet(content: bytes) -> pa.Table:
    """Read a table that `to_parquet` wrote, including its dictionary columns."""
    return pq.read_table(pa.BufferReader(content))
