"""Commit records, which are written last: a shard is done if and only if its commit record says so."""

from __future__ import annotations

import uuid
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from actors.errors import OutputError, PreconditionError
from actors.records import SCHEMA_VERSION, ShardFormat
from actors.storage import layout
from actors.storage.object_store import ObjectStore


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class InputIdentity(_Frozen):
    """The input that the record describes.

    Its fields are those of `Shard`. `etag` changes when the input does. `members` is encoded in base64;
    it lists the files of a group of loose images and is empty for other formats. If `stop_frame` isn't None,
    the rest of the frames, from this number on, is a shard of its own with its own record.
    """

    uri: str
    format: ShardFormat
    etag: str
    size_bytes: int
    start: int
    stop: int | None
    members: str = ""
    first_frame: int = Field(0, ge=0)
    stop_frame: int | None = None

    @model_validator(mode="after")
    def _has_frames(self) -> Self:
        if self.stop_frame is not None and self.stop_frame <= self.first_frame:
            raise ValueError(f"stop_frame must be greater than first_frame, which is {self.first_frame}")
        return self


class CommittedObject(_Frozen):
    """An object that belongs to the attempt.

    `kind` is frames, persons, annotations/<annotator>, json or preview. The JSON documents of a shard
    share one entry: `path` is their folder, `count` is their number, `size_bytes` is their total size
    and `sha256` is the digest of the lines "<sha256 of a document>  <its name>", sorted by name.
    """

    kind: str
    path: str
    size_bytes: int
    sha256: str
    count: int = 1


MAX_CAMERAS = 100
"""Maximum number of cameras that a commit record lists."""


class Counts(_Frozen):
    """Frames and persons of the shard.

    `frames` is `frames_ok` plus `frames_failed`; `detected` is `kept` plus the sum of `dropped`. `cameras`
    has the number of frames by camera; frames that name none are left out. It is None if the frames name more
    than `MAX_CAMERAS`, or if an earlier version wrote the record. `keys_not_matched` is the number of frames
    whose camera or time would come from `input.key_pattern`, which their keys don't match; None without one.
    """

    frames: int = 0
    frames_ok: int = 0
    frames_failed: int = 0
    detected: int = 0
    kept: int = 0
    dropped: dict[str, int] = Field(default_factory=dict)
    cameras: dict[str, int] | None = None
    keys_not_matched: int | None = None


class CommitRecord(_Frozen):
    """The authoritative state of one shard.

    `fingerprints` maps each stage (detect, smolvlm, person_json) to a hash of all settings and model
    weights that its result depends on. `models` counts the outcomes by model for each annotator that is
    paid by the token; records of earlier versions don't have it. `cost_usd` maps each annotator that is
    paid by the token to the estimated price of its answers. `denied` counts, for each annotator, the persons
    that were not sent because of their camera, by camera ("" for frames that name none). It is None if they
    are of more than `MAX_CAMERAS` cameras, or if an earlier version wrote the record.
    """

    schema_version: str = SCHEMA_VERSION
    shard_id: str
    state: Literal["done", "failed"]
    attempt: int
    attempt_id: str
    input: InputIdentity
    fingerprints: dict[str, str] = Field(default_factory=dict)
    counts: Counts = Counts()
    annotators: dict[str, dict[str, int]] = Field(default_factory=dict)
    models: dict[str, dict[str, dict[str, int]]] = Field(default_factory=dict)
    cost_usd: dict[str, float] = Field(default_factory=dict)
    denied: dict[str, dict[str, int]] | None = None
    objects: tuple[CommittedObject, ...] = ()
    documents: Literal["due", "written"] = "written"
    timings_s: dict[str, float] = Field(default_factory=dict)
    committed_at: str = ""
    error: str | None = None

    @property
    def next_id(self) -> str | None:
        """The id of the shard that has the frames after this one's, or None if there are none."""
        stop = self.input.stop_frame
        return None if stop is None else layout.rest_id(layout.cut_id(self.shard_id), stop)

    @property
    def detection(self) -> str:
        """The attempt that wrote the table of persons, by which decisions name the boxes that were seen."""
        persons = self.object("persons")
        return (layout.detection_of(persons.path) if persons is not None else None) or self.attempt_id

    def object(self, kind: str) -> CommittedObject | None:
        """Return the object of this kind, or None if the attempt wrote none."""
        return next((o for o in self.objects if o.kind == kind), None)


def new_attempt_id(attempt: int) -> str:
    """Return a name for an attempt: its number and a random part.

    The random part ensures that no two attempts write the same object.
    """
    return f"{attempt:03d}-{uuid.uuid4().hex[:8]}"


def publish(store: ObjectStore, record: CommitRecord, replaces: str | None) -> str:
    """Write the commit record of an attempt, which makes the attempt count.

    Args:
        store: The output.
        record: The record to write. All objects that it lists must already be durable.
        replaces: Etag of the record that the attempt is meant to replace, or None if the shard had no
            record.

    Returns:
        The etag of the new record.

    Raises:
        PreconditionError: Another attempt was committed first, so this one doesn't count.
    """
    path = layout.commit_path(record.shard_id)
    content = record.model_dump_json(indent=1).encode()
    try:
        if replaces is None:
            return store.create(path, content)
        return store.replace(path, content, replaces)
    except PreconditionError:
        # If the answer to a successful write is lost, the client's own retry finds the record that it
        # wrote itself.
        found = read_record(store, record.shard_id)
        if found is not None and found[0].attempt_id == record.attempt_id:
            return found[1]
        raise


def read_record(store: ObjectStore, shard_id: str) -> tuple[CommitRecord, str] | None:
    """Return the commit record of a shard and its etag, or None if the shard has none.

    Raises:
        OutputError: This version can't read the record.
    """
    path = layout.commit_path(shard_id)
    try:
        content, etag = store.read_with_etag(path)
    except FileNotFoundError:
        return None
    return parse_record(store.full(path), content), etag


def parse_record(name: str, content: bytes) -> CommitRecord:
    """Parse the JSON of a commit record. An error message calls the record `name`.

    Raises:
        OutputError: This version can't read the record.
    """
    try:
        return CommitRecord.model_validate_json(content)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise OutputError(
            f"{name}: not a commit record of this version: {problem['loc']}: "
            f"{problem['msg']}; delete the record to process the shard again"
        ) from error
