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


class BatchState(_Frozen):
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


def read_state(store: ObjectStore, path: str) -> BatchState:
    """One job.

    Raises:
        OutputError: The object is not such a job.
        OSError: The store can't be read.
    """
    try:
        return BatchState.model_validate_json(store.read(path))
    except ValidationError as error:
        raise OutputError(
            f"{store.full(path)}: not a batch job of this version; delete it, and its persons are asked again"
        ) from error


def open_states(store: ObjectStore, fingerprint: str) -> Iterator[BatchState]:
    """Jobs of this way of asking that have not ended. Raises as `read_state`."""
    for info in store.list(layout.BATCHES):
        state = read_state(store, info.path)
        if state.closed is None and state.fingerprint == fingerprint:
            yield state


def create_state(store: ObjectStore, state: BatchState) -> None:
    """Write down a job before it is submitted.

    Raises:
        PreconditionError: There is a job of this name.
        OSError: The store can't be written; the job must not be submitted then.
    """
    store.create(layout.batch_path(state.name), state.model_dump_json().encode())


def close_state(store: ObjectStore, state: BatchState, outcome: str) -> None:
    """Write down how a job ended, when its answers are in the journal."""
    closed = state.model_copy(update={"closed": outcome})
    store.write(layout.batch_path(state.name), closed.model_dump_json().encode())
