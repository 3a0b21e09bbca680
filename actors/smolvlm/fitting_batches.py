"""Run a model in batches that fit into memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from actors.records import Annotation

log = logging.getLogger(__name__)

_Item = TypeVar("_Item")


class FittingBatches:
    """Halves the batches whenever memory runs out, and goes on.

    Args:
        size: Number of crops in a batch, at first.
        release: Frees what the model keeps between batches.
    """

    def __init__(self, size: int, release: Callable[[], None] = lambda: None) -> None:
        self._size = size
        self._release = release

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
            batch = items[len(answers) : len(answers) + self._size]
            found: list[Annotation] | None = None
            try:
                found = answer(batch)
            except (torch.OutOfMemoryError, MemoryError) as error:
                trouble = str(error)
            except RuntimeError as error:
                if not _is_cpu_out_of_memory(error):
                    raise
                trouble = str(error)
            if found is not None:
                answers += found
                continue
            # This is outside the handler because a live traceback would keep the batch's tensors.
            self._release()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if len(batch) == 1:
                detail = trouble.splitlines()[0] if trouble else "no detail"
                answers.append(Annotation("error", f"out of memory on a single crop: {detail}"))
            else:
                self._size = len(batch) // 2
                log.warning("out of memory with %d crops; batches now have %d", len(batch), self._size)
        return answers


def _is_cpu_out_of_memory(error: RuntimeError) -> bool:
    # torch has no exception type for a failed allocation on the CPU.
    return "DefaultCPUAllocator" in str(error)
