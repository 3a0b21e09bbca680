"""Row types and Arrow schemas: what passes between the stages and what is written.

Boxes are `[x1, y1, x2, y2]`, float32, normalised to 0..1 of the frame as displayed (after EXIF
rotation), x to the right, y down. A pixel box is `bbox * [width, height, width, height]`.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import pyarrow as pa

SCHEMA_VERSION = "1"

ShardFormat = Literal["webdataset", "parquet", "images", "zip"]

FRAME_STATUSES = ("ok", "error")
OUTCOMES = ("ok", "invalid", "blocked", "truncated", "error", "pending")
"""What became of one kept person at one annotator.

ok         a valid answer
invalid    an answer that does not fit the schema
blocked    refused by the model's safety rules
truncated  the answer was cut at the token limit
error      no answer: the model or the crop failed
pending    not asked yet
"""

Outcome = Literal["ok", "invalid", "blocked", "truncated", "error", "pending"]

ANSWERED: tuple[Outcome, ...] = ("ok",)
"""Outcomes that stand when an annotator is to be retried."""

SETTLED: tuple[Outcome, ...] = ("ok", "invalid", "blocked", "truncated")
"""Outcomes that a plain rerun leaves alone: asked again, most likely the same would come out."""

RETRYABLE: tuple[Outcome, ...] = ("error", "pending")
"""Outcomes that a plain rerun asks for again, and needs the crop for."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One unit of work: an input object, a part of one, or a group of loose images.

    Attributes:
        shard_id: Name of the shard in every output object; safe as a file name.
        uri: Object to read; for `images` the folder that the `members` lie in.
        format: How to read it.
        etag: Identity of the input: changes when, and only when, the input bytes may have.
        size_bytes: Stored size of the shard (of the part, if it is one).
        start: First position of a part: of a Parquet file a row group, of a zip an entry, of a tar a byte
            (the part holds the samples that begin from there on); 0 for a whole object.
        stop: Position after the last, or None for "to the end".
        members: For `images`, the file names relative to `uri`, sorted and zlib-compressed,
            separated by NUL; empty otherwise.
    """

    shard_id: str
    uri: str
    format: ShardFormat
    etag: str
    size_bytes: int
    start: int = 0
    stop: int | None = None
    members: bytes = b""


@dataclass(frozen=True, slots=True)
class Frame:
    """One image of a shard as it was read, before decoding.

    Attributes:
        key: Name of the frame within its shard, unique among frames without an error.
        data: Encoded image, or None where `error` says why there is none.
        camera: Camera that took it, where the shard says so.
        captured_at: When, in UTC, where the shard says so.
        error: Why the frame can't be used.
        note: Something that the reader had to overlook, such as a broken sidecar.
    """

    key: str
    data: bytes | None
    camera: str | None = None
    captured_at: datetime | None = None
    error: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Annotation:
    """What one annotator said of one person.

    Attributes:
        status: Outcome; `values` is filled only for "ok".
        reason: Why the status isn't "ok".
        values: Attribute name to value, flat, in the schema's order.
        confidence: Attribute name to the probability (0..1) of the value chosen among those the
            schema allows; only attributes for which the model gives one.
        reasoning: The model's short explanation, where asked for.
    """

    status: Outcome
    reason: str | None = None
    values: dict[str, bool | int | str | None] = field(default_factory=dict)
    confidence: dict[str, float] = field(default_factory=dict)
    reasoning: str | None = None


_ENUM = pa.dictionary(pa.int8(), pa.string())

FRAMES_SCHEMA = pa.schema(
    [
        pa.field("shard_id", pa.string(), nullable=False),
        pa.field("frame_key", pa.string(), nullable=False),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("camera", pa.string()),
        pa.field("captured_at", pa.timestamp("us", tz="UTC")),
        pa.field("detected", pa.int32(), nullable=False),
        pa.field("kept", pa.int32(), nullable=False),
        pa.field("status", _ENUM, nullable=False),
        pa.field("error", pa.string()),
        pa.field("note", pa.string()),
    ],
    metadata={"schema_version": SCHEMA_VERSION},
)
"""One row a frame, whatever became of it. Width and height in pixels, null where not decoded."""

PERSONS_SCHEMA = pa.schema(
    [
        pa.field("shard_id", pa.string(), nullable=False),
        pa.field("frame_key", pa.string(), nullable=False),
        pa.field("person_index", pa.int32(), nullable=False),
        pa.field("bbox", pa.list_(pa.float32(), 4), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("kept", pa.bool_(), nullable=False),
        pa.field("drop_reason", _ENUM),
        pa.field("crop", pa.binary()),
    ],
    metadata={"schema_version": SCHEMA_VERSION},
)
"""One row a detected person, kept or dropped; `crop` is a JPEG, null where dropped.

`person_index` counts the detections of a frame from 0 in descending score.
"""
