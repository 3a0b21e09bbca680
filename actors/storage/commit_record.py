"""The marker, written last: a shard is done when, and only when, its commit record says so."""

from __future__ import annotations

import uuid
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from actors.errors import OutputError, PreconditionError
from actors.records import SCHEMA_VERSION, ShardFormat
from actors.storage import layout
from actors.storage.object_store import ObjectStore


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class InputIdentity(_Frozen):
    """Which input the record is about: `etag` changes when the input does.

    `members` is that of `Shard`, in base64: the files of a group of loose images, empty otherwise.
    """

    uri: str
    format: ShardFormat
    etag: str
    size_bytes: int
    start: int
    stop: int | None
    members: str = ""


class CommittedObject(_Frozen):
    """An object that belongs to the attempt.

    `kind` is frames, persons, annotations/<annotator>, json or preview. For the JSON documents of
    a shard there is one entry: `path` is their folder, `count` their number, `size_bytes` their sum
    and `sha256` the digest of the lines "<sha256 of a document>  <its name>", sorted by name.
    """

    kind: str
    path: str
    size_bytes: int
    sha256: str
    count: int = 1


class Counts(_Frozen):
    """What was in the shard: frames = frames_ok + frames_failed, detected = kept + dropped."""

    frames: int = 0
    frames_ok: int = 0
    frames_failed: int = 0
    detected: int = 0
    kept: int = 0
    dropped: dict[str, int] = Field(default_factory=dict)


class CommitRecord(_Frozen):
    """The truth about one shard.

    `fingerprints` holds, by stage (detect, smolvlm, person_json), the hash of all settings and
    model weights that the stage's result depends on. `cost_usd` is the estimated price of the answers of
    each annotator that is paid by the token.
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
    cost_usd: dict[str, float] = Field(default_factory=dict)
    objects: tuple[CommittedObject, ...] = ()
    timings_s: dict[str, float] = Field(default_factory=dict)
    committed_at: str = ""
    error: str | None = None

    def object(self, kind: str) -> CommittedObject | None:
        """The object of a kind, or None where the attempt wrote none."""
        return next((o for o in self.objects if o.kind == kind), None)


def new_attempt_id(attempt: int) -> str:
    """Name of an attempt: its number, and a random part so that no two ever write one object."""
    return f"{attempt:03d}-{uuid.uuid4().hex[:8]}"


def publish(store: ObjectStore, record: CommitRecord, replaces: str | None) -> str:
    """Make an attempt count.

    Args:
        store: The output.
        record: What the attempt produced; all its objects are durable by now.
        replaces: Version (etag) of the record that the attempt set out to replace, or None if the
            shard had none.

    Returns:
        The etag of the new record.

    Raises:
        PreconditionError: Another attempt was faster; this one doesn't count.
    """
    path = layout.commit_path(record.shard_id)
    content = record.model_dump_json(indent=1).encode()
    try:
        if replaces is None:
            return store.create(path, content)
        return store.replace(path, content, replaces)
    except PreconditionError:
        # The answer to a successful write can be lost, and the client's own retry then meets
        # the record that it wrote itself.
        found = read_record(store, record.shard_id)
        if found is not None and found[0].attempt_id == record.attempt_id:
            return found[1]
        raise


def read_record(store: ObjectStore, shard_id: str) -> tuple[CommitRecord, str] | None:
    """The record of a shard and its etag, or None if the shard has none.

    Raises:
        OutputError: The record is not one that this version can read.
    """
    path = layout.commit_path(shard_id)
    try:
        content, etag = store.read_with_etag(path)
    except FileNotFoundError:
        return None
    return parse_record(store.full(path), content), etag


def parse_record(name: str, content: bytes) -> CommitRecord:
    """A record from its JSON; `name` says in an error where it came from.

    Raises:
        OutputError: The record is not one that this version can read.
    """
    try:
        return CommitRecord.model_validate_json(content)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise OutputError(
            f"{name}: not a commit record of this version: {problem['loc']}: "
            f"{problem['msg']}; delete the record to do the shard again"
        ) from error
