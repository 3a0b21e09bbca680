"""A source of shards for one long execution of Ray Data, which knows only some thousand of them at a time.

A dataset that is made of a list keeps each of its blocks until the execution ends, about 5 KB in the driver.
Here the driver puts parcels of shards into a queue as others are done, and a reading task takes them out one
by one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.operators.map_operator import MapOperator
from ray.data._internal.execution.streaming_executor import StreamingExecutor
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.shard_block import parcel_of_tasks

_TAKEN_AT_ONCE = 16
"""Parcels that the reading task takes in one call: as many as a call costs little for, and a worker that dies
replays soon."""


class ShardQueue:
    """Parcels in the order in which they were put, by their number, until they are done.

    A reading task whose worker dies is started again by Ray from the first parcel on. It must then give the
    same parcels as before, except for those that are done, of which Ray has no more use.
    """

    def __init__(self) -> None:
        self._parcels: dict[int, pa.Table] = {}
        self._count = 0
        self._is_closed = False
        self._changed = asyncio.Condition()

    async def put(self, parcels: list[pa.Table], *, closes: bool) -> None:
        """Append parcels, the last ones if it `closes` the queue."""
        async with self._changed:
            self._parcels.update(enumerate(parcels, self._count))
            self._count += len(parcels)
            self._is_closed |= closes
            self._changed.notify_all()

    async def take(self, first: int) -> list[pa.Table | None]:
        """Return some parcels from a number on; None stands for one that is done.

        Waits until there is one. Nothing is returned after the last parcel of a closed queue.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._count > first or self._is_closed)
            return [self._parcels.get(n) for n in range(first, min(self._count, first + _TAKEN_AT_ONCE))]

    async def done(self, number: int) -> None:
        """Forget a parcel."""
        self._parcels.pop(number, None)


class ShardStream:
    """A queue of parcels, and the dataset that reads it: a block of one row for each parcel.

    Attributes:
        is_closed: Whether no more parcels can be put.
    """

    def __init__(self) -> None:
        queue: Any = ray.remote(num_cpus=0)(ShardQueue)
        here = ray.get_runtime_context().get_node_id()
        # The queue lives where the driver does, and is lost only with it.
        self._queue = queue.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False)
        ).remote()
        self._numbers: dict[str, int] = {}
        self._count = 0
        self.is_closed = False

    def put(self, parcels: Mapping[str, pa.Table], *, closes: bool) -> None:
        """Append parcels by the id of their first shard, the last ones if it `closes` the stream."""
        self._queue.put.remote(list(parcels.values()), closes=closes)
        self._numbers.update((shard_id, n) for n, shard_id in enumerate(parcels, self._count))
        self._count += len(parcels)
        self.is_closed = closes

    def done(self, shard_id: str) -> None:
        """Forget the parcel with this first shard, because it is done."""
        self._queue.done.remote(self._numbers.pop(shard_id))

    def dataset(self) -> ray.data.Dataset:
        """Return the dataset. Its execution ends after the last parcel of the closed stream."""
        made: ray.data.Dataset = ray.data.read_datasource(
            _QueuedShards(self._queue), num_cpus=0, concurrency=1, override_num_blocks=1
        )
        return made


class ForgetBlocks(ExecutionCallback):
    """Forgets what Ray Data notes about each block for its statistics, which nobody reads.

    The notes take about 5 KB in the driver for each shard, until the execution ends.
    """

    def on_execution_step(self, executor: StreamingExecutor) -> None:
        """Clear the notes. Ray Data calls this in each turn of its loop."""
        for operator in executor._topology or ():
            if isinstance(operator, MapOperator):
                operator._output_blocks_stats.clear()


class _QueuedShards(Datasource):
    """The parcels of a queue, read by one task for as long as the queue is open."""

    def __init__(self, queue: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._queue = queue

    def get_name(self) -> str:
        """Return the name of the reading stage."""
        return "Shards"

    def estimate_inmemory_data_size(self) -> int | None:
        """Return None, because the size isn't known beforehand."""
        return None

    def get_read_tasks(self, *_: Any, **__: Any) -> list[ReadTask]:
        """Return the one task, however many Ray asks for."""
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(_reader(self._queue), unknown)]


def _reader(queue: Any) -> Callable[[], Iterator[pa.Table]]:
    def read() -> Iterator[pa.Table]:
        number = 0
        nothing = parcel_of_tasks([])
        while parcels := ray.get(queue.take.remote(number)):
            number += len(parcels)
            for parcel in parcels:
                yield nothing if parcel is None else parcel

    return read
