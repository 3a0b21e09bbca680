"""The whole Ray Data graph: the planned shards pass through one stage after another."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
import ray.data

from actors.attempt_tracker import live_nodes
from actors.commit.accounting import ShardSummary
from actors.errors import ConfigError
from actors.read.frame_range import frames_of
from actors.shard_block import ShardTask, from_parcel, parcel_of_tasks
from actors.stage_workers import StageContext, StageWorker, load_stage, run_stage
from actors.stages import BlockStage
from jobs.run.parcels import ALONE, limits_of, parcels
from jobs.run.shard_stream import ForgetBlocks, ShardStream

log = logging.getLogger("shopframe")

_ONE_AHEAD: dict[str, Any] = {"max_tasks_in_flight_per_actor": 2}
"""Each actor has one parcel in progress and one waiting. More would only fill the object store."""

_AHEAD = 4096
"""Number of shards that Ray knows of at once. It keeps about 5 KB for each in the driver."""

_PUT_PARCELS = 4
"""Full parcels for which there must be room before more shards are put."""

_ANY_ROW_BYTES = 1
"""Size from which Ray Data passes a row on as a block. A row is never split, so each one is a block."""

_PRESENCE = 0.0001
"""What a worker reserves of the resource that only says where it may run: the least that Ray knows."""

_LONGEST_PAUSE_S = 300.0


@dataclass(frozen=True, slots=True)
class Retries:
    """How often the run tries again what failed for a reason that isn't in the input.

    Attributes:
        shards: Number of times that a shard is tried again.
        pause_s: Seconds before the first of these times. The pause doubles each time, up to five minutes.
        worker_starts: Number of workers in a row that may fail to start.
    """

    shards: int = 2
    pause_s: float = 10.0
    worker_starts: int = 3


def run_graph(
    tasks: Sequence[ShardTask],
    stages: Sequence[BlockStage],
    context: StageContext,
    retries: Retries = Retries(),
) -> Iterator[ShardSummary]:
    """Run the plan and yield one summary per shard.

    Where the commit of a shard says that the rest of its frames is too large for the same block, the rest
    becomes a shard of the run as well, and the summary says so.

    A parcel of shards remains one block of one row from the first stage to the last. Nothing splits it, so a
    worker that dies loses only the parcels that it held, and Ray runs just those again. Shards that a fault
    of the infrastructure has stopped are tried again after all others, each by itself, by new workers on any
    node.

    Args:
        tasks: The planned shards.
        stages: The stages in their order. The last one commits.
        context: The run's tracker and limits.
        retries: What is tried again, and how often.

    Raises:
        ConfigError: No node can start the workers of a stage.
    """
    avoided: set[str] = set()
    waiting = deque(tasks)
    for left in range(retries.shards, -1, -1):
        # A fault takes the rest of its parcel with it, which must then have another try.
        are_parcels = left == retries.shards > 0
        again: list[ShardTask] = []
        errors: dict[str, str | None] = {}
        while waiting:
            for task, summary in _run_where_workers_start(
                waiting, stages, context, retries.worker_starts, avoided, are_parcels
            ):
                if summary.retry and left:
                    again.append(task)
                    errors[summary.shard_id] = summary.error
                    continue
                rest = rest_of(task, summary)
                if rest is not None:
                    # The parts of a shard are done one after another, so the next one doesn't wait longer.
                    waiting.appendleft(rest)
                yield replace(summary, has_rest=rest is not None)
        if not again:
            return
        context.tracker.try_again.remote(len(again))
        log.warning(
            "%d shards are tried again", len(again), extra={"shards": dict(list(errors.items())[:20])}
        )
        time.sleep(min(_LONGEST_PAUSE_S, retries.pause_s * 2 ** (retries.shards - left)))
        waiting.extend(again)


def rest_of(task: ShardTask, summary: ShardSummary) -> ShardTask | None:
    """Return the task for the frames that a commit has left out because the block was full, or None.

    Args:
        task: The task whose shard was committed.
        summary: The summary of the commit, possibly by another attempt.
    """
    stop, planned = summary.stop_frame, task.shard.stop_frame
    if stop is None or (planned is not None and stop >= planned):
        return None
    return ShardTask(frames_of(task.shard, stop, planned), "detect", recall=task.recall)


def _run_where_workers_start(
    waiting: deque[ShardTask],
    stages: Sequence[BlockStage],
    context: StageContext,
    worker_starts: int,
    avoided: set[str],
    are_parcels: bool,
) -> Iterator[tuple[ShardTask, ShardSummary]]:
    """Run the waiting shards, and go on without the nodes on which workers turn out not to start.

    Args:
        waiting: The shards. They are taken from it; the caller may add others meanwhile.
        stages: The stages.
        context: The run's tracker and limits.
        worker_starts: Number of workers in a row that may fail to start.
        avoided: Ids of the nodes that are not used; nodes are added to it.
        are_parcels: Whether small shards travel together.

    Yields:
        Each shard that was waiting at the start and its summary, and some of those that were added since.

    Raises:
        ConfigError: No node can start the workers.
    """
    while True:
        in_progress: dict[str, ShardTask] = {}
        _set_context(worker_starts, avoided)
        try:
            yield from _run_stream(waiting, in_progress, stages, context, are_parcels)
        except ray.exceptions.RayActorError as error:
            refusals: dict[str, str] = ray.get(context.tracker.refusals.remote())
            if not refusals.keys() - avoided:
                raise
            if not live_nodes() - refusals.keys():
                raise ConfigError(next(iter(refusals.values()))) from error
            log.warning("nodes on which no worker starts are no longer used", extra={"nodes": refusals})
            avoided |= refusals.keys()
            waiting.extendleft(reversed(in_progress.values()))
        else:
            return


def _set_context(worker_starts: int, avoided: set[str]) -> None:
    data_context = ray.data.DataContext.get_current()
    data_context.enable_progress_bars = False
    data_context.print_on_execution_start = False
    data_context.execution_options.preserve_order = False
    data_context.execution_options.label_selector = (
        {"ray.io/node-id": f"!in({','.join(sorted(avoided))})"} if avoided else None
    )
    data_context.max_consecutive_actor_init_deaths = worker_starts - 1


def _run_stream(
    waiting: deque[ShardTask],
    in_progress: dict[str, ShardTask],
    stages: Sequence[BlockStage],
    context: StageContext,
    are_parcels: bool,
) -> Iterator[tuple[ShardTask, ShardSummary]]:
    """Run the waiting shards in one execution, which starts the workers once.

    Args:
        waiting: The shards, which are taken from it. The execution ends when none is left.
        in_progress: Those that were taken and have no summary yet, by their ids.
        stages: The stages.
        context: The run's tracker and limits.
        are_parcels: Whether small shards travel together.
    """
    planned = len(waiting)
    works = {task.work for task in waiting}
    used = [stage for stage in stages if works & set(stage.concerns)]
    workers = max((stage.resources.bounds_for(planned).max or planned for stage in used), default=1)
    annotates = any(stage.name == "annotate" for stage in used)
    limits = limits_of(min(planned, _AHEAD), workers, annotates, context.max_block_bytes)
    limits = limits if are_parcels else ALONE
    stream = ShardStream() if planned > _AHEAD else None

    def take() -> dict[str, pa.Table]:
        tasks = [waiting.popleft() for _ in range(min(len(waiting), _AHEAD - len(in_progress)))]
        in_progress.update((task.shard.shard_id, task) for task in tasks)
        return {some[0].shard.shard_id: parcel_of_tasks(some) for some in parcels(tasks, limits)}

    data_context = ray.data.DataContext.get_current()
    data_context.custom_execution_callback_classes = [] if stream is None else [ForgetBlocks]
    if stream is None:
        data_context.target_max_block_size = None
        blocks: ray.data.Dataset = ray.data.from_blocks(list(take().values()))
    else:
        data_context.target_max_block_size = _ANY_ROW_BYTES
        blocks = stream.dataset()
        stream.put(take(), closes=not waiting)
    for stage in used:
        if not stage.keeps_state:
            ray.remote(num_cpus=0)(load_stage).remote(stage)
        blocks = _add_stage(blocks, stage, context, planned)
    for batch in blocks.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        table: pa.Table = batch
        for row in range(table.num_rows):
            summaries = [ShardSummary.from_block(block) for block in from_parcel(table.slice(row, 1))]
            for summary in summaries:
                yield in_progress.pop(summary.shard_id), summary
            if stream is not None:
                stream.done(summaries[0].shard_id)
                # Not as soon as one is done: what is put at once can make full parcels.
                if not stream.is_closed and _AHEAD - len(in_progress) >= _PUT_PARCELS * limits.shards:
                    stream.put(take(), closes=not waiting)


def _add_stage(blocks: Any, stage: BlockStage, context: StageContext, shards: int) -> Any:
    resources = stage.resources
    bounds = resources.bounds_for(shards)
    workers = bounds.within(resources.workers)
    options: dict[str, Any] = {
        # Both values pass whole blocks. With GPUs, Ray Data requires a number of rows, and a block has one.
        "batch_size": 1 if resources.gpus else None,
        "batch_format": "pyarrow",
        "zero_copy_batch": True,
        "num_cpus": resources.cpus,
        "num_gpus": resources.gpus,
        **({"memory": resources.memory_bytes} if resources.memory_bytes else {}),
        **({"resources": {resources.node_resource: _PRESENCE}} if resources.node_resource else {}),
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
        compute=ray.data.ActorPoolStrategy(
            min_size=bounds.min, initial_size=workers, max_size=bounds.max, **_ONE_AHEAD
        ),
        **options,
    )


def _worker_class(stage: str) -> type[StageWorker]:
    """Return a class with the stage's name, because Ray lists and logs actors by their class."""
    return type(stage, (StageWorker,), {})
