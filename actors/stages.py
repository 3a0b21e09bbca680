"""The stages of a run. Each has a name, the resources of its workers, and a function that processes a shard.

The function takes a block and returns a block. Anything that goes wrong in it becomes the error of the block,
so a problem with one shard doesn't affect the others; the later stages pass the block on to be recorded.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
import ray

from actors.commit.committed_shard import load_committed
from actors.commit.committer import Committer
from actors.cuda import require_cuda
from actors.detect.restored_crops import CropRestorer
from actors.detect.shard_detector import ShardDetector
from actors.errors import ConfigError, CropRestoreError, ShardError
from actors.shard_block import ReportProgress, ShardBlock, Work
from actors.smolvlm.shard_annotator import ShardAnnotator
from actors.storage.object_store import ObjectStore
from actors.storage.store_errors import STORAGE_ERRORS, storage_error_text

log = logging.getLogger(__name__)

_REPORT_EVERY_S = 1.0

ALL_WORK: tuple[Work, ...] = ("detect", "annotate", "write")


@dataclass(frozen=True, slots=True)
class Resources:
    """The resources that a stage uses.

    Attributes:
        workers: Number of blocks that are processed at once.
        cpus: Cores that each worker reserves.
        gpus: GPUs that each worker reserves; a fraction if several workers share one.
        gpu_setting: Setting that requested the GPU, for the error message if a worker finds none.
    """

    workers: int
    cpus: float = 1
    gpus: float = 0
    shards_per_worker: int = 1
    gpu_setting: str = ""


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
    resources: Resources, detector: ShardDetector, crop_restorer: CropRestorer, output: ObjectStore
) -> BlockStage:
    """Return the stage that reads a shard and detects its persons, or loads them from an earlier commit."""
    return BlockStage("detect", resources, partial(_detect, detector, crop_restorer, output))


def _detect(
    detector: ShardDetector,
    crop_restorer: CropRestorer,
    output: ObjectStore,
    block: ShardBlock,
    report_progress: ReportProgress,
) -> ShardBlock:
    if block.task.work == "detect":
        return detector.detect(block, report_progress)
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


def _annotate(annotator: ShardAnnotator, block: ShardBlock, _: ReportProgress) -> ShardBlock:
    return annotator.annotate(block)


def commit_stage(resources: Resources, committer: Committer) -> BlockStage:
    """Return the stage that writes the objects and the commit record of a shard.

    A shard that can't be committed is reported and processed again by the next run.
    """
    return BlockStage("commit", resources, partial(_commit, committer), keeps_state=False, takes_failed=True)


def _commit(committer: Committer, block: ShardBlock, _: ReportProgress) -> ShardBlock:
    return block.committed(committer.commit(block).to_json())


@dataclass(frozen=True, slots=True)
class StageContext:
    """What every worker needs.

    Attributes:
        tracker: Handle of the run's `AttemptTracker` actor.
        max_attempts: Number of times that a stage may start one shard, in case its workers die.
    """

    tracker: Any
    max_attempts: int


def run_stage(batch: pa.Table, stage: BlockStage, context: StageContext) -> pa.Table:
    """Process one block with one stage. Ray Data calls this with a table of one row and gets one row back."""
    block = ShardBlock.from_arrow(batch)
    if block.task.work not in stage.concerns or (block.error is not None and not stage.takes_failed):
        return batch
    shard_id = block.task.shard.shard_id
    times = ray.get(context.tracker.start.remote(stage.name, shard_id))
    started = time.perf_counter()
    if times > context.max_attempts:
        done = block.failed(
            f"{stage.name}: its worker died {context.max_attempts} times on this shard (it ran out of "
            "memory, or native code crashed); find out what is special about the shard, then run again"
        )
    else:
        done = _work(stage, block, _ProgressReport(context.tracker))
    context.tracker.finish.remote(stage.name, shard_id)
    timings_s = {**done.timings_s, stage.name: round(time.perf_counter() - started, 3)}
    return replace(done, timings_s=timings_s).to_arrow()


def _work(stage: BlockStage, block: ShardBlock, report_progress: ReportProgress) -> ShardBlock:
    try:
        return stage.work(block, report_progress)
    except ShardError as error:
        return block.failed(str(error), keep_previous_commit=isinstance(error, CropRestoreError))
    except STORAGE_ERRORS as error:
        return block.failed(f"{stage.name}: {storage_error_text(error)}")
    except Exception as error:  # a failing shard must not stop the others
        log.exception("%s failed on shard %s", stage.name, block.task.shard.shard_id)
        return block.failed(f"{stage.name}: {type(error).__name__}: {error}")


class StageWorker:
    """An actor of a stage, which calls `run_stage` and keeps state, such as a model, from shard to shard.

    Raises:
        ConfigError: The worker was given a GPU but finds none, or `prepare` refused the settings; the
            tracker passes the reason on to the driver.
    """

    def __init__(self, stage: BlockStage, context: StageContext) -> None:
        self._stage = stage
        self._context = context
        try:
            if stage.resources.gpus > 0 and stage.resources.gpu_setting:
                require_cuda(stage.resources.gpu_setting)
            stage.prepare()
        except ConfigError as error:
            ray.get(context.tracker.refuse.remote(str(error)))
            raise

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Process one block."""
        return run_stage(batch, self._stage, self._context)


class _ProgressReport:
    """Adds up progress within a shard and reports it to the tracker at most once a second."""

    def __init__(self, tracker: Any) -> None:
        self._tracker = tracker
        self._frames = 0
        self._persons = 0
        self._reported = time.monotonic()

    def __call__(self, frames: int, persons: int) -> None:
        self._frames += frames
        self._persons += persons
        if time.monotonic() - self._reported >= _REPORT_EVERY_S:
            self._tracker.report_progress.remote(self._frames, self._persons)
            self._frames = self._persons = 0
            self._reported = time.monotonic()
