"""The jobs of batch mode as the bucket remembers them, so that any run can finish what another began."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, ValidationError

from actors.errors import OutputError
from actors.storage import layout
from actors.storage.object_store import ObjectStore


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BatchCrop(_Frozen):
    """One crop of a job: `key` names the person, the digest is that of the committed crop."""

    shard_id: str
    key: str
    crop_sha256: str


class BatchRecord(_Frozen):
    """One job as the bucket remembers it.

    `requests` are its lines, each the crops in the order in which they are shown; `closed` says how it
    ended, and is None while its answers are still to come.
    """

    name: str
    fingerprint: str
    created_at: str
    seed: int
    requests: tuple[tuple[BatchCrop, ...], ...]
    closed: str | None = None


def read_batch(store: ObjectStore, path: str) -> BatchRecord:
    """One job.

    Raises:
        OutputError: The object is not such a job.
        OSError: The store can't be read.
    """
    try:
        return BatchRecord.model_validate_json(store.read(path))
    except ValidationError as error:
        raise OutputError(
            f"{store.full(path)}: not a batch job of this version; delete it, and its persons are asked again"
        ) from error


def open_batches(store: ObjectStore, fingerprint: str) -> Iterator[BatchRecord]:
    """Jobs of this way of asking that have not ended. Raises as `read_batch`."""
    for info in store.list(layout.BATCHES):
        record = read_batch(store, info.path)
        if record.closed is None and record.fingerprint == fingerprint:
            yield record


def create_batch(store: ObjectStore, record: BatchRecord) -> None:
    """Write down a job before it is submitted.

    Raises:
        PreconditionError: There is a job of this name.
        OSError: The store can't be written; the job must not be submitted then.
    """
    store.create(layout.batch_path(record.name), record.model_dump_json().encode())


def close_batch(store: ObjectStore, record: BatchRecord, outcome: str) -> None:
    """Write down how a job ended, when its answers are in the journal."""
    closed = record.model_copy(update={"closed": outcome})
    store.write(layout.batch_path(record.name), closed.model_dump_json().encode())
