"""Batches follow the memory that there is: after the first one, after memory ran out, and afterwards."""

from itertools import pairwise

import pytest
import torch

from actors.records import Annotation
from actors.smolvlm.device_memory import batches_for
from actors.smolvlm.fitting_batches import BATCH_BYTES, LARGER_AFTER, MOST, USUAL, FittingBatches
from actors.smolvlm.settings import SmolVLMSettings

MIB = 1 << 20


class Memory:
    """Memory of which a model takes a fixed amount for each crop."""

    def __init__(self, free, each):
        self.free, self.each = free, each
        self.peak = 0

    def free_bytes(self):
        return self.free

    def watch(self):
        self.peak = 0

    def peak_bytes(self):
        return self.peak


def run(batches, crops, room=MOST, memory=None):
    """Run batches over crops of which `room` fit at once; return the sizes that were tried."""
    tried = []

    def answer(batch):
        tried.append(len(batch))
        if len(batch) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if memory is not None:
            memory.peak = len(batch) * memory.each
        return [Annotation("ok", None, {"crop": crop}, {}) for crop in batch]

    answers = batches.run(range(crops), answer)
    assert [one.values["crop"] for one in answers] == list(range(crops))
    return tried


@pytest.mark.parametrize(
    ("free", "then"),
    [(100 * MIB, 80), (4000 * MIB, MOST), (10 * MIB, 8), (0, 1)],
)
def test_the_first_batch_says_how_many_fit(free, then):
    memory = Memory(free, MIB)
    batches = FittingBatches(USUAL, memory=memory)
    assert run(batches, USUAL + 2 * then, memory=memory) == [USUAL, then, then]


def test_a_small_shard_says_nothing_about_memory():
    memory = Memory(100 * MIB, MIB)
    batches = FittingBatches(USUAL, memory=memory)
    assert run(batches, 3, memory=memory) == [3]
    assert run(batches, USUAL + 80, memory=memory) == [USUAL, 80]


def test_batches_grow_again_when_memory_that_ran_out_is_back():
    batches = FittingBatches(16)
    assert run(batches, 20, room=4) == [16, 8, 4, 4, 4, 4, 4]
    fitted = 5
    assert run(batches, 4 * (LARGER_AFTER - fitted)) == [4] * (LARGER_AFTER - fitted)
    assert run(batches, 8 * LARGER_AFTER + 16) == [8] * LARGER_AFTER + [16]
    assert run(batches, 64) == [16] * 4


def test_where_memory_is_not_back_larger_batches_are_tried_less_and_less_often():
    batches = FittingBatches(4)
    tried = run(batches, 2 * 8 * LARGER_AFTER, room=2)
    fails = [number for number, size in enumerate(tried) if size == 4]
    assert [b - a - 1 for a, b in pairwise(fails)] == [
        LARGER_AFTER,
        2 * LARGER_AFTER,
        4 * LARGER_AFTER,
    ]


def test_the_last_batch_of_a_shard_does_not_count_as_one_that_fits():
    batches = FittingBatches(4)
    assert run(batches, 3, room=2) == [3, 1, 1, 1]
    assert run(batches, 0) == []
    for _ in range(3 * LARGER_AFTER):
        run(batches, 1)
    assert batches.size == 2


def test_on_a_cpu_auto_is_the_usual_size():
    batches = batches_for(SmolVLMSettings(), MIB)
    assert run(batches, 3 * USUAL) == [USUAL] * 3
    assert run(batches_for(SmolVLMSettings(batch_size=7), MIB), 14) == [7, 7]


def test_the_pixels_of_an_automatic_batch_fit_into_their_bytes():
    memory = Memory(4000 * MIB, MIB)
    batches = FittingBatches(USUAL, memory=memory, most=20)
    assert run(batches, USUAL + 60, memory=memory) == [USUAL, 20, 20, 20]
    for tile_px, tiles in ((512, 1), (512, 17), (1024, 17), (20_000, 1)):
        picture_bytes = tiles * 3 * tile_px**2 * 4
        size = batches_for(SmolVLMSettings(), picture_bytes).size
        assert size == 1 or size * picture_bytes <= BATCH_BYTES
        assert batches_for(SmolVLMSettings(batch_size=1000), picture_bytes).size == 1000
    assert batches_for(SmolVLMSettings(), 1025 * MIB).size == 1
