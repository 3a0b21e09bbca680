"""The whole Ray Data chain on one page: plan, detect, annotate, commit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import ray.data

from actors.commit.committer import Committer, ShardSummary
from actors.detect.restored_crops import CropRestorer
from actors.detect.shard_detector import ShardDetector
from actors.shard_block import ShardTask
from actors.smolvlm.shard_annotator import ShardAnnotator
from actors.stages import AnnotateStage, DetectStage, StageContext, commit_stage, summary_from_json


@dataclass(frozen=True, slots=True)
class Pools:
    """How many workers each stage has, and what each takes of a node.

    `commit_tasks` write to the bucket and wait for it most of the time: they take little of a core.
    """

    detectors: int
    annotators: int
    annotator_gpus: float
    detector_gpus: float = 0
    commit_tasks: int = 2
    commit_cpus: float = 0.25

    @property
    def cpus(self) -> float:
        """Cores that all of them reserve together: one an actor."""
        return self.detectors + self.annotators + self.commit_tasks * self.commit_cpus


_ONE_AHEAD: dict[str, Any] = {"max_tasks_in_flight_per_actor": 2}
"""One shard in work and one waiting an actor: more would only fill the object store."""

_WAVE = 4096
"""Shards planned into one Ray Data run. Ray keeps about 5 KB a block in the driver: a wave bounds that,
and costs one start of the actors."""


@dataclass(frozen=True, slots=True)
class Stages:
    """What the run does with a shard, and with how many workers."""

    context: StageContext
    pools: Pools
    detector: ShardDetector
    crop_restorer: CropRestorer
    annotator: ShardAnnotator | None
    committer: Committer


def run_graph(tasks: Sequence[ShardTask], stages: Stages) -> Iterator[ShardSummary]:
    """Run the plan; yields a summary a shard, as they are committed.

    A shard is one block of one row all the way. Nothing splits it, so a worker that dies costs the
    blocks that it held and Ray runs just those again.
    """
    for start in range(0, len(tasks), _WAVE):
        yield from _run_wave(tasks[start : start + _WAVE], stages)


def _run_wave(tasks: Sequence[ShardTask], stages: Stages) -> Iterator[ShardSummary]:
    data_context = ray.data.DataContext.get_current()
    data_context.target_max_block_size = None
    data_context.enable_progress_bars = False
    data_context.print_on_execution_start = False
    data_context.execution_options.preserve_order = False
    pools = stages.pools
    rows = [task.to_row() for task in tasks]
    blocks = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        DetectStage,
        fn_constructor_args=(stages.context, stages.detector, stages.crop_restorer, stages.committer.store),
        batch_size=_batch_size(pools.detector_gpus),
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ray.data.ActorPoolStrategy(size=min(pools.detectors, len(tasks)), **_ONE_AHEAD),
        num_cpus=1,
        num_gpus=pools.detector_gpus,
    )
    if stages.annotator is not None:
        blocks = blocks.map_batches(
            AnnotateStage,
            fn_constructor_args=(stages.context, stages.annotator),
            batch_size=_batch_size(pools.annotator_gpus),
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=ray.data.ActorPoolStrategy(size=min(pools.annotators, len(tasks)), **_ONE_AHEAD),
            num_cpus=1,
            num_gpus=pools.annotator_gpus,
        )
    summaries = blocks.map_batches(
        partial(commit_stage, context=stages.context, committer=stages.committer),
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ray.data.TaskPoolStrategy(size=pools.commit_tasks),
        num_cpus=pools.commit_cpus,
    )
    for batch in summaries.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        table: pa.Table = batch
        for text in table["summary"].to_pylist():
            yield summary_from_json(text)


def _batch_size(gpus: float) -> int | None:
    """A whole block: Ray Data wants a number of rows for a stage that uses GPUs, and a block has one."""
    return 1 if gpus else None
