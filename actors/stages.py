"""The stages of a run. Each has a name, the resources of its workers, and a function that processes a shard.

The function takes a block and returns a block. Anything that goes wrong in it becomes the error of the block,
so a problem with one shard doesn't affect the others. Only a fault of the input is recorded as a failure of
the shard. Any other fault leaves what is committed as it is: the shard is tried again, and then postponed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from actors.actor_bounds import ActorBounds
from actors.commit.committed_shard import load_committed
from actors.commit.committer import Committer
from actors.detect.restored_crops import CropRestorer
from actors.detect.shard_detector import ShardDetector
from actors.erasure.left_out import leave_out, read_left_out
from actors.shard_block import ReportProgress, ShardBlock, Work
from actors.smolvlm.shard_annotator import ShardAnnotator
from actors.storage.object_store import ObjectStore

ALL_WORK: tuple[Work, ...] = ("detect", "annotate", "write")

_DETECTOR_NICENESS = 10
"""Where detectors and annotators share cores, shards that were begun are finished first. Otherwise detectors
run ahead, with more shards in memory, and at the end of the run their cores have nothing to do."""


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
        niceness: Is added to the niceness of its actors, so that other stages get cores first.
    """

    name: str
    resources: Resources
    work: Callable[[ShardBlock, ReportProgress], ShardBlock]
    prepare: Callable[[], None] = lambda: None
    keeps_state: bool = True
    concerns: tuple[Work, ...] = ALL_WORK
    takes_failed: bool = False
    niceness: int = 0


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
    prepare = detector.load if loads_model else _nothing
    return BlockStage("detect", resources, work, prepare, niceness=_DETECTOR_NICENESS)


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
