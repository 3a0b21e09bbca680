"""The workers of the stages: what runs in processes of Ray, for one parcel of shards after another.

Anything that goes wrong with a shard becomes the error of its block, so it doesn't affect the others.
"""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import pyarrow as pa
import ray

from actors.attempt_tracker import Deaths
from actors.cuda import require_cuda
from actors.errors import ShardError, ShardUnavailableError, ShopframeError
from actors.log_lines import about_shard, log_as_worker
from actors.shard_block import ReportProgress, ShardBlock, from_parcel, to_parcel
from actors.stages import BlockStage
from actors.storage.request_counts import NewRequests
from actors.storage.store_errors import STORAGE_ERRORS, storage_error_text

log = logging.getLogger(__name__)

_REPORT_EVERY_S = 1.0

_store_requests = NewRequests()


@dataclass(frozen=True, slots=True)
class StageContext:
    """What the stages of a run have in common.

    Attributes:
        tracker: Handle of the run's `AttemptTracker` actor.
        max_attempts: Number of workers that one shard may kill.
        run_id: Id of the run, for the log.
        max_block_bytes: Maximum size of a shard's block, as `crops.max_block_bytes`; it limits parcels, too.
    """

    tracker: Any
    max_attempts: int
    run_id: str = ""
    max_block_bytes: int = 256 << 20


def run_stage(batch: pa.Table, stage: BlockStage, context: StageContext) -> pa.Table:
    """Process one parcel with one stage. Ray Data gives and gets a table of one row."""
    return _process(batch, stage, context)[0]


def load_stage(_stage: BlockStage) -> None:
    """Load the code of a stage without state into this process, while the other stages load their models.

    Ray starts the workers of such a stage with its first block, which would have to wait for the imports.
    Unpickling the stage imports the stage, and a worker that is idle gets the next task.
    """
    import ray.data._internal.execution.operators.map_operator  # noqa: F401


def _process(batch: pa.Table, stage: BlockStage, context: StageContext) -> tuple[pa.Table, bool]:
    """Process one parcel, and return whether a fault of the infrastructure has happened here."""
    blocks = from_parcel(batch)
    concerned = [
        number
        for number, block in enumerate(blocks)
        if block.task.work in stage.concerns and (block.error is None or stage.takes_failed)
    ]
    if not concerned:
        return batch, False
    here = ray.get_runtime_context()
    parcel = _Parcel(stage, context, here.get_node_id(), here.get_worker_id())
    done = parcel.process([blocks[number] for number in concerned])
    is_fault = any(_is_fault(blocks[number], block) for number, block in zip(concerned, done, strict=True))
    for number, block in zip(concerned, done, strict=True):
        blocks[number] = block
    table = to_parcel(blocks)
    parcel.finish()
    return table, is_fault


def _is_fault(before: ShardBlock, after: ShardBlock) -> bool:
    """Return whether a fault of the infrastructure has happened to a shard in a stage."""
    return after.fault == "infrastructure" != before.fault


class _Parcel:
    """The shards of one parcel in one stage.

    Args:
        stage: The stage.
        context: What every worker needs.
        node_id: Id of this node.
        worker_id: Id of this worker.
    """

    def __init__(self, stage: BlockStage, context: StageContext, node_id: str, worker_id: str) -> None:
        self._stage = stage
        self._context = context
        self._here = (node_id, worker_id)
        self._report = _ProgressReport(context.tracker)
        self._begun: list[str] = []

    def process(self, blocks: Sequence[ShardBlock]) -> list[ShardBlock]:
        """Process shards one after another.

        The rest is tried again, each shard by itself, after a worker has died with the parcel, and after a
        fault of the infrastructure, of which this process may be the reason if it keeps a state.
        """
        tracker, name = self._context.tracker, self._stage.name
        log_as_worker(self._context.run_id, tracker.log.remote)
        if len(blocks) == 1:
            return [self._alone(blocks[0])]
        shard_ids = [block.task.shard.shard_id for block in blocks]
        if not ray.get(tracker.start_together.remote(name, shard_ids, *self._here)):
            reason = f"{name}: its worker died with this shard and {len(blocks) - 1} more"
            return [_not_begun(block, reason) for block in blocks]
        self._begun = shard_ids
        done: list[ShardBlock] = []
        fault: str | None = None
        with _InProgress(tracker, name, shard_ids[0], self._here[1]) as in_progress:
            for block in blocks:
                if fault is not None:
                    reason = f"{name}: not begun after a fault of another shard: {fault}"
                    done.append(_not_begun(block, reason))
                    continue
                in_progress.shard_id = block.task.shard.shard_id
                done.append(self._timed(block, Deaths()))
                if self._stage.keeps_state and _is_fault(block, done[-1]):
                    fault = done[-1].error
        return done

    def _alone(self, block: ShardBlock) -> ShardBlock:
        shard_id = block.task.shard.shard_id
        deaths: Deaths = ray.get(self._context.tracker.start.remote(self._stage.name, shard_id, *self._here))
        self._begun = [shard_id]
        return self._timed(block, deaths)

    def finish(self) -> None:
        """Tell the tracker that the shards are done, and all that was asked of stores."""
        self._report.send()
        self._context.tracker.finish.remote(self._stage.name, self._begun, _store_requests.take())

    def _timed(self, block: ShardBlock, deaths: Deaths) -> ShardBlock:
        started = time.perf_counter()
        done = self._one(block, deaths)
        seconds = round(time.perf_counter() - started, 3)
        return replace(done, timings_s={**done.timings_s, self._stage.name: seconds})

    def _one(self, block: ShardBlock, deaths: Deaths) -> ShardBlock:
        stage, most = self._stage, self._context.max_attempts
        if deaths.by_shard >= most:
            return _deadly(stage, block, deaths.by_shard)
        if deaths.by_shard + deaths.for_memory >= most:
            reason = (
                f"{stage.name}: Ray killed its worker {deaths.for_memory} times on this shard because the "
                "memory of the node was short; free memory, or give the stage fewer actors, then run again"
            )
            return block.postponed(reason, "unavailable")
        with about_shard(block.task.shard.shard_id, block.task.attempt):
            return work_on(stage, block, self._report)


def _not_begun(block: ShardBlock, reason: str) -> ShardBlock:
    """Return the block of a shard that is tried again, unless it waits for something else anyway."""
    return block.postponed(reason, "infrastructure") if block.fault in (None, "input") else block


def work_on(stage: BlockStage, block: ShardBlock, report_progress: ReportProgress) -> ShardBlock:
    """Return what a stage makes of a block, with the error that it met, if any."""
    try:
        return stage.work(block, report_progress)
    except ShardError as error:
        return block.failed(str(error))
    except ShardUnavailableError as error:
        return block.postponed(str(error), "unavailable")
    except ShopframeError as error:
        return block.postponed(f"{stage.name}: {error}", "infrastructure")
    except STORAGE_ERRORS as error:
        return block.postponed(f"{stage.name}: {storage_error_text(error)}", "infrastructure")
    except Exception as error:  # a fault with one shard must not stop the others
        log.exception("%s could not process shard %s", stage.name, block.task.shard.shard_id)
        return block.postponed(f"{stage.name}: {type(error).__name__}: {error}", "infrastructure")


def _deadly(stage: BlockStage, block: ShardBlock, deaths: int) -> ShardBlock:
    """Return the block of a shard that has killed too many workers.

    Where the shard's persons come from a commit, its input has been fine, so that commit stays.
    """
    reason = (
        f"{stage.name}: its worker died {deaths} times on this shard (it ran out of memory, or native code "
        "crashed); find out what is special about the shard, then run again"
    )
    return block.failed(reason) if block.task.work == "detect" else block.postponed(reason, "unavailable")


class StageWorker:
    """An actor of a stage, which calls `run_stage` and keeps state, such as a model, from shard to shard.

    Raises:
        Exception: The worker was given a GPU but finds none, or `prepare` failed; the tracker passes the
            reason on to the driver.
    """

    def __init__(self, stage: BlockStage, context: StageContext) -> None:
        self._stage = stage
        self._context = context
        self._is_suspect = False
        log_as_worker(context.run_id, context.tracker.log.remote)
        # Linux has a niceness for each thread, and those that the models start inherit it.
        os.nice(stage.niceness)
        try:
            if stage.resources.gpus > 0 and stage.resources.gpu_setting:
                require_cuda(stage.resources.gpu_setting)
            with _without_garbage_collection():
                stage.prepare()
        except Exception as error:
            reason = str(error) if isinstance(error, ShopframeError) else f"{type(error).__name__}: {error}"
            node_id = ray.get_runtime_context().get_node_id()
            ray.get(context.tracker.refuse.remote(node_id, reason))
            raise

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Process one parcel."""
        if self._is_suspect:
            # Ray starts another process for this parcel, on any node. An error of CUDA, for example, makes
            # all further work in the same process fail.
            os._exit(1)
        done, self._is_suspect = _process(batch, self._stage, self._context)
        return done


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Load what stays until the process ends, without the collections of cyclic garbage that find none in it.

    They take a sixth of the time in which torch and transformers are imported. Later collections leave out
    what was loaded.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


class _InProgress:
    """Tells the tracker which shard of a parcel is in progress, at most once a second.

    A message about each of them would take 2 of the 14 ms that shards of one frame take on two cores.

    Args:
        tracker: The tracker, which knows that the first shard has begun.
        stage: Name of the stage.
        first: Id of the first shard.
        worker_id: Id of this worker.

    Attributes:
        shard_id: Id of the shard in progress; assign the next one.
    """

    def __init__(self, tracker: Any, stage: str, first: str, worker_id: str) -> None:
        self.shard_id = first
        self._tracker = tracker
        self._stage = stage
        self._worker_id = worker_id
        self._ended = threading.Event()
        # A thread, because a shard that hangs can't tell that it was begun.
        self._telling = threading.Thread(
            target=self._tell_regularly, args=(first,), name="in-progress", daemon=True
        )

    def __enter__(self) -> Self:
        self._telling.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._telling.join()

    def _tell_regularly(self, told: str) -> None:
        while not self._ended.wait(_REPORT_EVERY_S):
            current = self.shard_id
            if current != told:
                self._tracker.begin.remote(self._stage, current, self._worker_id)
                told = current


class _ProgressReport:
    """Adds up progress within a shard and reports it to the tracker at most once a second."""

    def __init__(self, tracker: Any) -> None:
        self._tracker = tracker
        self._done: Counter[str] = Counter()
        self._reported = time.monotonic()

    def __call__(self, frames: int = 0, persons: int = 0, answers: int = 0) -> None:
        self._done.update(frames=frames, persons=persons, answers=answers)
        if time.monotonic() - self._reported >= _REPORT_EVERY_S:
            self.send()

    def send(self) -> None:
        """Report what has been done since the last report."""
        if self._done.total():
            self._tracker.report_progress.remote(**self._done)
            self._done.clear()
            self._reported = time.monotonic()
