"""Records of batch jobs in the output, from which any run can finish a job that another run began."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from pydantic import BaseModel, ConfigDict, ValidationError

from actors.errors import OutputError
from actors.gemini.question import Question
from actors.gemini.settings import ResolvedGemini
from actors.storage import layout
from actors.storage.flat_listing import list_flat
from actors.storage.object_store import ObjectStore


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BatchCrop(_Frozen):
    """One crop of a job: `key` identifies the person, `crop_sha256` is the digest of the committed crop."""

    shard_id: str
    key: str
    crop_sha256: str


class BatchRecord(_Frozen):
    """The record of one job.

    `requests` are the lines of the job's file, and each lists its crops in the order in which they are
    shown. `model` is None in records of earlier versions. `run_id` and `expected_usd` tell which run has
    submitted the job, and what it expected the job to cost. `closed` tells how the job ended; it is None
    while the answers are not in the journal yet.
    """

    name: str
    fingerprint: str
    created_at: str
    seed: int
    requests: tuple[tuple[BatchCrop, ...], ...]
    model: str | None = None
    run_id: str = ""
    expected_usd: float = 0.0
    closed: str | None = None

    def resolved(self, now: ResolvedGemini) -> ResolvedGemini:
        """Return the question of this run, with the model that the job was submitted to."""
        return replace(now, model=self.model or now.earlier.get(self.fingerprint, now.model))


def read_batch(store: ObjectStore, path: str) -> BatchRecord:
    """Read the record of one job.

    Raises:
        OutputError: The object is not the record of a batch job.
        OSError: The store can't be read.
    """
    try:
        return BatchRecord.model_validate_json(store.read(path))
    except ValidationError as error:
        raise OutputError(
            f"{store.full(path)}: not a batch job of this version; delete it, and Gemini is asked about its "
            "persons again"
        ) from error


def _is_record(path: str) -> bool:
    """Return whether a path is that of a record. Killed processes leave other files beside them."""
    return path.endswith(".json")


def open_batches(store: ObjectStore, question: Question) -> Iterator[BatchRecord]:
    """Yield the open jobs that ask this question, of any model. Raises the same errors as `read_batch`."""
    for info in list_flat(store, layout.BATCHES, _is_record):
        record = read_batch(store, info.path)
        if record.closed is None and question.is_asked_by(record.fingerprint):
            yield record


def create_batch(store: ObjectStore, record: BatchRecord) -> None:
    """Write the record of a job, before the job is submitted.

    Raises:
        PreconditionError: A job of this name exists already.
        OSError: The store can't be written. The job must not be submitted in this case.
    """
    store.create(layout.batch_path(record.name), record.model_dump_json().encode())


def close_batch(store: ObjectStore, record: BatchRecord, outcome: str) -> None:
    """Record how a job ended, once its answers are in the journal."""
    closed = record.model_copy(update={"closed": outcome})
    store.write(layout.batch_path(record.name), closed.model_dump_json().encode())


def remove_from_batches(
    store: ObjectStore, keys: Collection[str], digests: Collection[str], apply: bool
) -> int:
    """Make crops of jobs unknown, and return how many these are.

    Their places in the requests stay, because answers are told apart by them. A request of an open job with
    such a crop can't be rebuilt any more, so its other persons are asked about again.

    Args:
        store: The output.
        keys: The persons, as "shard/frame/index".
        digests: Digests of their crops.
        apply: Whether to do it. Otherwise, they are only counted.

    Raises:
        OutputError: An object is not the record of a batch job.
        OSError: The store can't be read or written.
    """
    removed = 0
    for info in list_flat(store, layout.BATCHES, _is_record):
        record = read_batch(store, info.path)
        gone = sum(
            crop.key in keys or crop.crop_sha256 in digests for request in record.requests for crop in request
        )
        removed += gone
        if apply and gone:
            left = tuple(
                tuple(
                    crop.model_copy(update={"key": "", "crop_sha256": ""})
                    if crop.key in keys or crop.crop_sha256 in digests
                    else crop
                    for crop in request
                )
                for request in record.requests
            )
            store.write(info.path, record.model_copy(update={"requests": left}).model_dump_json().encode())
    return removed
