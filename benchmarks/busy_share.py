"""How much of the time a device computes while a model works."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile


def busy_share(work: Callable[[], None], device: str) -> float:
    """Return the share of a call's time in which any operation of torch runs on a device.

    On "cpu" the rest is Python and other libraries; on "cuda" the GPU waits.
    """
    activity, of_device = {
        "cpu": (ProfilerActivity.CPU, DeviceType.CPU),
        "cuda": (ProfilerActivity.CUDA, DeviceType.CUDA),
    }[device]
    with profile(activities=[activity]) as profiled:
        began = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        took_s = time.perf_counter() - began
    ranges = [
        (event.time_range.start, event.time_range.end)
        for event in profiled.events()
        if event.device_type == of_device
    ]
    return covered(ranges) / 1e6 / took_s


def covered(ranges: Iterable[tuple[float, float]]) -> float:
    """Return the length that ranges cover together, of which some overlap."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(ranges):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total
