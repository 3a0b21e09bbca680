"""Run a model in batches that fit into memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from actors.records import Annotation

log = logging.getLogger(__name__)

USUAL = 16
"""Number of crops in a batch on a CPU, and in the first batch on a GPU."""

MOST = 256
"""The most crops in a batch that is sized by free memory. A GPU is busy with fewer."""

BATCH_BYTES = 1 << 30
"""The most bytes that the pixels of a batch whose size isn't set take in the memory of the machine."""

AHEAD = MOST
"""The most crops that are prepared for the next batch while the model works on one."""

AHEAD_BYTES = 256 << 20
"""The most bytes that their pixels take."""

MOST_PIXELS_BYTES = 2 * BATCH_BYTES + AHEAD_BYTES
"""The most bytes of pixels at a time: those of a batch, crop by crop and together, and those ahead."""

LARGER_AFTER = 16
"""Batches that fit before a larger one is tried, after memory ran out. It doubles whenever that one fails."""

_SHARE = 0.8
"""Share of the free memory that a batch is sized for. An allocator can't use all of it."""

_Item = TypeVar("_Item")


class DeviceMemory(Protocol):
    """Memory of the device that runs a model."""

    def free_bytes(self) -> int:
        """Return what this process may still take."""

    def watch(self) -> None:
        """Begin to watch the peak."""

    def peak_bytes(self) -> int:
        """Return how much more than at the beginning was in use at the peak."""


class FittingBatches:
    """Sizes batches by free memory if it is told to, and halves them whenever memory runs out.

    Memory that ran out because something else took it may be free again later, so after some batches that
    fit, one of twice the size is tried.

    Attributes:
        size: Number of crops that the next batch should have.
    """

    def __init__(
        self,
        size: int,
        release: Callable[[], None] = lambda: None,
        memory: DeviceMemory | None = None,
        most: int = MOST,
    ) -> None:
        """Begin with the given size.

        Args:
            size: Number of crops in a batch, at first.
            release: Frees what the model keeps between batches.
            memory: Memory by which batches are sized after the first one; None keeps the size.
            most: The most crops in a batch that is sized by memory.
        """
        self.size = size
        self._most = most
        self._wanted = size
        self._release = release
        self._memory = memory
        self._larger_after = LARGER_AFTER
        self._fitted = 0
        self._is_larger = False

    def run(
        self, items: Sequence[_Item], answer: Callable[[Sequence[_Item]], list[Annotation]]
    ) -> list[Annotation]:
        """Return the annotation of each item.

        Args:
            items: Any number of crops, prepared for the model.
            answer: Runs the model on a batch.

        Returns:
            One annotation per item. The outcome is "error" if a single item doesn't fit into memory.
        """
        import torch

        answers: list[Annotation] = []
        while len(answers) < len(items):
            batch = items[len(answers) : len(answers) + self.size]
            found: list[Annotation] | None = None
            try:
                found = self._measured(batch, answer)
            except (torch.OutOfMemoryError, MemoryError) as error:
                trouble = str(error)
            except RuntimeError as error:
                if not _is_cpu_out_of_memory(error):
                    raise
                trouble = str(error)
            if found is not None:
                answers += found
                self._fits(len(batch))
                continue
            # This is outside the handler because a live traceback would keep the batch's tensors.
            self._release()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if len(batch) == 1:
                detail = trouble.splitlines()[0] if trouble else "no detail"
                answers.append(Annotation("error", f"out of memory on a single crop: {detail}"))
            else:
                self._does_not_fit(len(batch))
        return answers

    def _measured(
        self, batch: Sequence[_Item], answer: Callable[[Sequence[_Item]], list[Annotation]]
    ) -> list[Annotation]:
        """Answer a batch, and size the next ones by what the first one has taken."""
        if self._memory is None or len(batch) < self.size:
            return answer(batch)
        free = self._memory.free_bytes()
        self._memory.watch()
        answers = answer(batch)
        each = max(1, self._memory.peak_bytes() // len(batch))
        self._memory = None
        self._wanted = self.size = max(1, min(self._most, int(_SHARE * free) // each))
        log.info("batches of %d crops, of %.0f MiB each", self.size, each / (1 << 20))
        return answers

    def _fits(self, crops: int) -> None:
        if self.size >= self._wanted or crops < self.size:
            return
        self._fitted += 1
        self._is_larger = self._fitted >= self._larger_after
        if self._is_larger:
            self._fitted = 0
            self.size = min(self._wanted, 2 * self.size)

    def _does_not_fit(self, crops: int) -> None:
        if self._is_larger:
            self._larger_after *= 2
        self._fitted, self._is_larger = 0, False
        self.size = crops // 2
        # Memory that ran out is no time to measure how much is free.
        self._memory = None
        log.warning("out of memory with %d crops; batches now have %d", crops, self.size)


def _is_cpu_out_of_memory(error: RuntimeError) -> bool:
    # torch has no exception type for a failed allocation on the CPU.
    return "DefaultCPUAllocator" in str(error)
