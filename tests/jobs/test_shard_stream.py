"""The queue behind a stream of shards gives a reading task that is started again the same parcels."""

from __future__ import annotations

import asyncio

import pyarrow as pa

from jobs.run.shard_stream import ShardQueue


def _parcels(*names: str) -> list[pa.Table]:
    return [pa.table({"name": [name]}) for name in names]


async def _read(queue: ShardQueue) -> list[str | None]:
    found: list[str | None] = []
    while parcels := await queue.take(len(found)):
        found += [None if parcel is None else parcel["name"][0].as_py() for parcel in parcels]
    return found


def test_parcels_come_in_order_until_the_queue_is_closed():
    async def run() -> list[str | None]:
        queue = ShardQueue()
        reader = asyncio.create_task(_read(queue))
        for name in "abc":
            await queue.put(_parcels(name), closes=False)
            await asyncio.sleep(0)
        assert not reader.done()
        await queue.put(_parcels(*"def"), closes=True)
        return await reader

    assert asyncio.run(run()) == list("abcdef")


def test_a_second_reader_gets_the_same_parcels_and_none_for_those_that_are_done():
    async def run() -> list[str | None]:
        queue = ShardQueue()
        await queue.put(_parcels(*(f"{n:02d}" for n in range(40))), closes=True)
        assert await _read(queue) == [f"{n:02d}" for n in range(40)]
        for done in (0, 3, 20):
            await queue.done(done)
        return await _read(queue)

    again = asyncio.run(run())
    assert again == [None if n in (0, 3, 20) else f"{n:02d}" for n in range(40)]


def test_an_empty_last_put_ends_the_reader():
    async def run() -> list[str | None]:
        queue = ShardQueue()
        await queue.put(_parcels("a"), closes=False)
        await queue.put([], closes=True)
        return await _read(queue)

    assert asyncio.run(run()) == ["a"]
