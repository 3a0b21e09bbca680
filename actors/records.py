"""Row types and Arrow schemas that pass between the stages and are written to the output.

Boxes are `[x1, y1, x2, y2]`, float32, normalised to 0..1 of the frame as displayed (after EXIF
rotation). x points to the right and y points down. A pixel box is `bbox * [width, height, width, height]`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Self

import pyarrow as pa

from actors.attribute import AttributeValue
from actors.plain_text import plain_text

SCHEMA_VERSION = "1"

ShardFormat = Literal["webdataset", "parquet", "images", "zip"]

FRAME_STATUSES = ("ok", "error")
OUTCOMES = ("ok", "inherited", "invalid", "blocked", "truncated", "error", "denied", "pending")
"""The possible outcomes of one kept person at one annotator.

ok         the answer is valid
inherited  it was not asked about; the answer is that about another crop of the same person
invalid    the answer does not match the schema
blocked    the model's safety rules refused the answer
truncated  the answer was cut off at the token limit
error      there is no answer because the model or the crop failed
denied     it was not sent because the settings don't permit its camera; it is asked about once they do
pending    there is no answer yet
"""

Outcome = Literal["ok", "inherited", "invalid", "blocked", "truncated", "error", "denied", "pending"]

ANSWERED: tuple[Outcome, ...] = ("ok", "inherited")
"""Outcomes with values. They are kept when an annotator is retried."""

GIVEN: tuple[Outcome, ...] = ("ok", "invalid", "blocked", "truncated")
"""Outcomes that a model's answer about the crop itself gave, and would most likely give again."""

SETTLED: tuple[Outcome, ...] = (*GIVEN, "inherited")
"""Outcomes that a plain rerun keeps."""

RETRYABLE: tuple[Outcome, ...] = ("error", "pending")
"""Outcomes that a plain rerun asks for again; it needs the crop to do so."""

RequestCounts = Mapping[tuple[str, str], int]
"""Number of requests to S3 by operation (`GetObject`) and result: `ok`, `throttled`, `refused`, `failed`."""

NOT_PERMITTED = "not sent: gemini.cameras does not permit its camera"
"""Reason of the outcome `denied`."""


def is_denied(status: str, reason: str | None) -> bool:
    """Return whether a person was not sent because of its camera. Earlier versions wrote `blocked` then."""
    return status == "denied" or reason == NOT_PERMITTED


@dataclass(frozen=True, slots=True)
class Shard:
    """One unit of work: an input object, a part of an object, or a group of loose images.

    Attributes:
        shard_id: Name of the shard in every output object; safe as a file name.
        uri: Object to read; for `images`, the folder that contains the `members`.
        format: How to read it.
        etag: Identity of the input, which changes if and only if the input bytes may have changed.
        size_bytes: Stored size of the shard, or of the part.
        start: First position of a part, 0 for a whole object. The position is a row group in a Parquet
            file, an entry in a zip and a byte in a tar (the part holds the samples that begin after it).
        stop: Position after the last one, or None for the end of the object.
        members: For `images`, the file names relative to `uri`, sorted and zlib-compressed,
            separated by NUL; empty otherwise.
        first_frame: Number of frames, of those between `start` and `stop`, that come before this shard. It is
            0 unless `crops.max_block_bytes` has cut the frames before into a shard of their own.
        stop_frame: Number of the frame, counted in the same way, before which this shard ends; None if it
            has all frames up to `stop`.
    """

    shard_id: str
    uri: str
    format: ShardFormat
    etag: str
    size_bytes: int
    start: int = 0
    stop: int | None = None
    members: bytes = b""
    first_frame: int = 0
    stop_frame: int | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """One encoded image of a shard, before decoding.

    Attributes:
        key: Name of the frame within its shard, unique among frames without an error.
        data: Encoded image, or None if there is an `error`.
        camera: Camera that took the frame, if the shard names it.
        captured_at: Time of the frame in UTC, if the shard gives it.
        error: Why the frame can't be used.
        note: Problem that the reader ignored, such as a broken sidecar.
        name: Name of the image's file within the shard; for Parquet, the key.
        is_key_matched: Whether the path matches `input.key_pattern`; None if it wasn't compared, because
            there is no pattern, or because sidecar or row give all that the pattern could.
    """

    key: str
    data: bytes | None
    camera: str | None = None
    captured_at: datetime | None = None
    error: str | None = None
    note: str | None = None
    name: str = ""
    is_key_matched: bool | None = None


Distribution = tuple[tuple[AttributeValue, float], ...]
"""Values of an attribute with their probabilities (0..1), the likeliest first."""


LONGEST_REASON = 500


@dataclass(frozen=True, slots=True)
class Annotation:
    """The answer of one annotator about one person.

    Attributes:
        status: Outcome; only those in ANSWERED come with `values`.
        reason: Why there are no values, cut to `LONGEST_REASON` characters: it may have words of a server.
        values: Value of each attribute by name, flat, in the order of the schema.
        confidence: Probability (0..1) of the chosen value among those that the schema allows, by
            attribute name; it has only the attributes for which the model gives one.
        reasoning: Short explanation by the model, if requested.
        distribution: Probability of every allowed value of a category or boolean, and of the likeliest ones
            of an integer, for the attributes for which the model gives them.
    """

    status: Outcome
    reason: str | None = None
    values: dict[str, bool | int | str | None] = field(default_factory=dict)
    confidence: dict[str, float] = field(default_factory=dict)
    reasoning: str | None = None
    distribution: dict[str, Distribution] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.reason is not None:
            object.__setattr__(self, "reason", plain_text(self.reason, LONGEST_REASON))

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Return the annotation that `dataclasses.asdict` and JSON have made a mapping of.

        Raises:
            TypeError, ValueError, AttributeError: The mapping is something else.
        """
        pairs = content.get("distribution", {}).items()
        distribution = {name: tuple((value, share) for value, share in shares) for name, shares in pairs}
        return cls(**{**content, "distribution": distribution})


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
"""One row per frame, whether ok or not. Width and height are in pixels, null if it was not decoded."""

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
        pa.field("crop_sha256", pa.string()),
    ],
    metadata={"schema_version": SCHEMA_VERSION},
)
"""One row per detected person, kept or dropped; `crop` is a JPEG, null for dropped persons.

`crop_sha256` identifies the crop, to which an annotator's answer belongs, even if the crop is not kept.
`person_index` numbers the detections of a frame from 0 in order of descending score.
"""
