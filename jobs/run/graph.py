"""The whole Ray Data graph: the planned shards pass through one stage after another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import ray.data

from actors.commit.accounting import ShardSummary
from actors.shard_block import ShardBlock, ShardTask
from actors.stages import BlockStage, StageContext, StageWorker, run_stage

_ONE_AHEAD: dict[str, Any] = {"max_tasks_in_flight_per_actor": 2}
"""Each actor has one shard in progress and one waiting. More would only fill the object store."""

_WAVE = 4096
"""Number of shards in one Ray Data execution. Ray keeps about 5 KB per block in the driver; waves bound this
memory, at the cost of starting the actors once per wave."""


def run_graph(
    tasks: Sequence[ShardTask], stages: Sequence[BlockStage], context: StageContext
) -> Iterator[ShardSummary]:
    """Run the plan and yield one summary per shard as it leaves the last stage.

    A shard remains one block of one row from the first stage to the last. Nothing splits it, so a worker
    that dies loses only the blocks that it held, and Ray runs just those again.

    Args:
        tasks: The planned shards.
        stages: The stages in their order. The last one commits.
        context: The run's tracker and limits.
    """
    for start in range(0, len(tasks), _WAVE):
        yield from _run_wave(tasks[start : start + _WAVE], stages, context)


def _run_wave(
    tasks: Sequence[ShardTask], stages: Sequence[BlockStage], context: StageContext
) -> Iterator[ShardSummary]:
    data_context = ray.data.DataContext.get_current()
    data_context.target_max_block_size = None
    data_context.enable_progress_bars = False
    data_context.print_on_execution_start = False
    data_context.execution_options.preserve_order = False
    rows = [task.to_row() for task in tasks]
    blocks = ray.data.from_items(rows, override_num_blocks=len(rows))
    for stage in stages:
        if not any(task.work in stage.concerns for task in tasks):
            continue
        blocks = _add_stage(blocks, stage, context, len(tasks))
    for batch in blocks.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        table: pa.Table = batch
        for row in range(table.num_rows):
            yield ShardSummary.from_block(ShardBlock.from_arrow(table.slice(row, 1)))


def _add_stage(blocks: Any, stage: BlockStage, context: StageContext, shards: int) -> Any:
    resources = stage.resources
    workers = min(resources.workers, math.ceil(shards / resources.shards_per_worker))
    options: dict[str, Any] = {
        # Both values pass whole blocks. With GPUs, Ray Data requires a number of rows, and a block has one.
        "batch_size": 1 if resources.gpus else None,
        "batch_format": "pyarrow",
        "zero_copy_batch": True,
        "num_cpus": resources.cpus,
        "num_gpus": resources.gpus,
    }
    if not stage.keeps_state:
        return blocks.map_batches(
            partial(run_stage, stage=stage, context=context),
            compute=ray.data.TaskPoolStrategy(size=workers),
            **options,
        )
    return blocks.map_batches(
        _worker_class(stage.name),
        fn_constructor_args=(stage, context),
        compute=ray.data.ActorPoolStrategy(size=workers, **_ONE_AHEAD),
        **options,
    )


def _worker_class(stage: str) -> type[StageWorker]:
    """Return a class with the stage's name, because Ray lists and logs actors by their class."""
    return type(stage, (StageWorker,), {})
