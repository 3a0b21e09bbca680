"""The stages of a run. Each has a name, the resources of its workers, and a function that processes a shard.

The function takes a block and returns a block. Anything that goes wrong in it becomes the error of the block,
so a problem with one shard doesn't affect the others. Only a fault of the input is recorded as a failure of
the shard. Any other fault leaves what is committed as it is: the shard is tried again, and then postponed.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

import pyarrow as pa
import ray

from actors.actor_bounds import ActorBounds
from actors.attempt_tracker import Deaths
from actors.commit.committed_shard import load_committed
from actors.commit.committer import Committer
from actors.cuda import require_cuda
from actors.detect.restored_crops import CropRestorer
from actors.detect.shard_detector import ShardDetector
from actors.erasure.left_out import leave_out, read_left_out
from actors.errors import ShardError, ShardUnavailableError, ShopframeError
from actors.log_lines import about_shard, log_as_worker
from actors.shard_block import ReportProgress, ShardBlock, Work, from_parcel, to_parcel
from actors.smolvlm.shard_annotator import ShardAnnotator
from actors.storage.object_store import ObjectStore
from actors.storage.request_counts import NewRequests
from actors.storage.store_errors import STORAGE_ERRORS, storage_error_text

log = logging.getLogger(__name__)

_REPORT_EVERY_S = 1.0

_store_requests = NewRequests()

ALL_WORK: tuple[Work, ...] = ("detect", "annotate", "write")


@dataclass(frozen=True, slots=True)
class Resources:
    """The resources that a stage uses.

    Attributes:
        workers: Number of blocks that are processed at once; where there are bounds, at the start.
        cpus: Cores that each worker reserves.
        gpus: GPUs that each worker reserves; a fraction if several workers share one.
        shards_per_worker: Number of planned shards for which there is one worker.
        gpu_setting: Setting that requested the GPU, for the error message if a worker finds none.
        bounds: Bounds between which the number of actors follows the work, or None if it stays.
        memory_bytes: Memory that each worker reserves, or None for none.
        node_resource: Custom resource that a node must have to run the workers, or None for any node.
    """

    workers: int
    cpus: float = 1
    gpus: float = 0
    shards_per_worker: int = 1
    gpu_setting: str = ""
    bounds: ActorBounds | None = None
    memory_bytes: int | None = None
    node_resource: str | None = None

    def bounds_for(self, shards: int) -> ActorBounds:
        """Return the bounds of the number of workers for so many shards."""
        needed = math.ceil(shards / self.shards_per_worker)
        bounds = self.bounds or ActorBounds(min=self.workers, max=self.workers)
        most = needed if bounds.max is None else min(needed, bounds.max)
        return ActorBounds(min=min(bounds.min, most), max=most)


@dataclass(frozen=True, slots=True)
class BlockStage:
    """One stage of a run.

    Attributes:
        name: Name in timings, errors and the progress display.
        resources: Resources of its workers.
        work: Function that returns the block for the next stage; it may report progress meanwhile.
        prepare: Function that loads what `work` needs, once in each actor, before its first shard.
        keeps_state: Whether the workers are actors, which keep a model from shard to shard, or tasks.
        concerns: Kinds of work that the stage takes part in; it passes other blocks on unchanged.
        takes_failed: Whether the stage also processes blocks with an error.
    """

    name: str
    resources: Resources
    work: Callable[[ShardBlock, ReportProgress], ShardBlock]
    prepare: Callable[[], None] = lambda: None
    keeps_state: bool = True
    concerns: tuple[Work, ...] = ALL_WORK
    takes_failed: bool = False


def detect_stage(
    resources: Resources,
    detector: ShardDetector,
    crop_restorer: CropRestorer,
    output: ObjectStore,
    loads_model: bool = True,
    retained_since: datetime | None = None,
) -> BlockStage:
    """Return the stage that reads a shard and detects its persons, or loads them from an earlier commit.

    Args:
        resources: Resources of its workers.
        detector: Detects persons.
        crop_restorer: Cuts out again the crops that were not kept.
        output: The output.
        loads_model: Whether any shard of the run needs detection.
        retained_since: Persons of frames before this time are left out.
    """
    work = partial(_detect, detector, crop_restorer, output, retained_since)
    return BlockStage("detect", resources, work, prepare=detector.load if loads_model else _nothing)


def _nothing() -> None:
    pass


def _detect(
    detector: ShardDetector,
    crop_restorer: CropRestorer,
    output: ObjectStore,
    retained_since: datetime | None,
    block: ShardBlock,
    report_progress: ReportProgress,
) -> ShardBlock:
    if block.task.work == "detect":
        found = detector.detect(block, report_progress)
        return leave_out(found, read_left_out(output, found.task.shard, retained_since))
    block, record = load_committed(block, output)
    return crop_restorer.fill_crops(block, record) if block.task.work == "annotate" else block


def annotate_stage(resources: Resources, annotator: ShardAnnotator) -> BlockStage:
    """Return the stage that asks a local model about the kept persons of a shard."""
    return BlockStage(
        "annotate",
        resources,
        partial(_annotate, annotator),
        prepare=annotator.load,
        concerns=("detect", "annotate"),
    )


def _annotate(annotator: ShardAnnotator, block: ShardBlock, report_progress: ReportProgress) -> ShardBlock:
    return annotator.annotate(block, report_progress)


def commit_stage(resources: Resources, committer: Committer) -> BlockStage:
    """Return the stage that writes the objects and the commit record of a shard.

    A shard with a fault that isn't of its input passes unchanged.
    """
    return BlockStage("commit", resources, partial(_commit, committer), keeps_state=False, takes_failed=True)


def _commit(committer: Committer, block: ShardBlock, _: ReportProgress) -> ShardBlock:
    if block.fault not in (None, "input"):
        return block
    return block.committed(committer.commit(block).to_json())


@dataclass(frozen=True, slots=True)
class StageContext:
    """What every worker needs.

    Attributes:
        tracker: Handle of the run's `AttemptTracker` actor.
        max_attempts: Number of workers that one shard may kill.
        run_id: Id of the run, for the log.
        max_block_bytes: Maximum size of a shard's block, as `crops.max_block_bytes`.
    """

    tracker: Any
    max_attempts: int
    run_id: str = ""
    max_block_bytes: int = 256 << 20


def run_stage(batch: pa.Table, stage: BlockStage, context: StageContext) -> pa.Table:
    """Process one parcel with one stage. Ray Data gives and gets a table of one row."""
    return _process(batch, stage, context)[0]


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
        for block in blocks:
            if fault is not None:
                done.append(_not_begun(block, f"{name}: not begun after a fault of another shard: {fault}"))
                continue
            tracker.begin.remote(name, block.task.shard.shard_id)
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
            return _work(stage, block, self._report)


def _not_begun(block: ShardBlock, reason: str) -> ShardBlock:
    """Return the block of a shard that is tried again, unless it waits for something else anyway."""
    return block.postponed(reason, "infrastructure") if block.fault in (None, "input") else block


def _work(stage: BlockStage, block: ShardBlock, report_progress: ReportProgress) -> ShardBlock:
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
