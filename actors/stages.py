"""The stages of a run: each says its name, what its workers take of a node, and its work on one shard.

A stage's work is a function from block to block. Whatever goes wrong in it becomes the block's error, so that
one shard's trouble stays its own and the later stages pass it on to be recorded.
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
    """What a stage takes of the cluster.

    Attributes:
        workers: How many blocks are worked on at once.
        cpus: Cores that each worker reserves.
        gpus: GPUs that each worker reserves; a share of one where several workers fit on it.
        gpu_setting: The setting that asked for the GPU, for the error where a worker finds none.
    """

    workers: int
    cpus: float = 1
    gpus: float = 0
    gpu_setting: str = ""


@dataclass(frozen=True, slots=True)
class BlockStage:
    """One stage.

    Attributes:
        name: As in timings, errors and the progress display.
        resources: What its workers take.
        work: Makes the block of the next stage; may report progress as it goes.
        prepare: Loads what the work needs, once in each actor, before its first shard.
        keeps_state: Whether workers are actors, which hold a model from shard to shard, or tasks.
        concerns: Where a shard's work must begin for the stage to do something to it.
        takes_failed: Whether blocks with an error come to it too.
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
    """Reads a shard and finds its people, or fetches what was committed of them before."""
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
    """Asks a local model about the kept people of a shard."""
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
    """Writes a shard's objects and its record; what can't be committed is said and stays to do."""
    return BlockStage("commit", resources, partial(_commit, committer), keeps_state=False, takes_failed=True)


def _commit(committer: Committer, block: ShardBlock, _: ReportProgress) -> ShardBlock:
    return block.committed(committer.commit(block).to_json())


@dataclass(frozen=True, slots=True)
class StageContext:
    """What every worker needs: the run's tracker (an actor's handle) and how often a shard may kill."""

    tracker: Any
    max_attempts: int


def run_stage(batch: pa.Table, stage: BlockStage, context: StageContext) -> pa.Table:
    """One block through one stage, as Ray Data calls it: one row in, one row out."""
    block = ShardBlock.from_arrow(batch)
    if block.task.work not in stage.concerns or (block.error is not None and not stage.takes_failed):
        return batch
    shard_id = block.task.shard.shard_id
    times = ray.get(context.tracker.start.remote(stage.name, shard_id))
    started = time.perf_counter()
    if times > context.max_attempts:
        done = block.failed(
            f"{stage.name}: its worker died {context.max_attempts} times on this shard (killed for memory, "
            "or a crash in native code); look for what is special about it, then run again"
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
    except Exception as error:  # the boundary where one shard's trouble stays its own
        log.exception("%s failed on shard %s", stage.name, block.task.shard.shard_id)
        return block.failed(f"{stage.name}: {type(error).__name__}: {error}")


class StageWorker:
    """An actor of a stage: `run_stage` with what the work keeps from shard to shard.

    Raises:
        ConfigError: The worker was given a GPU and finds none; the driver then learns why from the tracker.
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
        """One block through the stage."""
        return run_stage(batch, self._stage, self._context)


class _ProgressReport:
    """Adds up progress within a shard and tells the tracker every so often."""

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
