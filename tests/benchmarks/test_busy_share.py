"""The share of time in which a device computes is that of a known wait."""

from __future__ import annotations

import time

import torch

from benchmarks.busy_share import busy_share, covered


def test_ranges_that_overlap_count_once():
    assert covered([(5, 6), (0, 2), (1, 3), (1, 2)]) == 4
    assert covered([]) == 0


def test_a_wait_is_not_busy():
    matrix = torch.rand(600, 600)

    def work():
        # Half of the time by the clock, however busy the machine is.
        began = time.perf_counter()
        for _ in range(5):
            torch.linalg.svd(matrix)
        time.sleep(time.perf_counter() - began)

    # A sleep may take longer than it should.
    assert 0.2 < busy_share(work, "cpu") < 0.55
