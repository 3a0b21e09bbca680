"""Size batches by the memory of the GPU that runs the model."""

from __future__ import annotations

from collections.abc import Callable

from actors.smolvlm.fitting_batches import BATCH_BYTES, MOST, USUAL, FittingBatches
from actors.smolvlm.settings import SmolVLMSettings


class CudaMemory:
    """Memory of the GPU that Ray has given to this process, or of its part of one."""

    def __init__(self, gpus: float) -> None:
        """Take the number of GPUs of this process, such as 0.5."""
        self._share = min(1.0, gpus)
        self._before = 0

    def free_bytes(self) -> int:
        """Return what this process may still take."""
        import torch

        free, total = torch.cuda.mem_get_info()
        reserved = torch.cuda.memory_reserved()
        # The allocator gives what it has reserved and doesn't use. Who shares the GPU may not have begun yet.
        allowed = min(free + reserved, int(self._share * total))
        return max(0, allowed - torch.cuda.memory_allocated())

    def watch(self) -> None:
        """Begin to watch the peak."""
        import torch

        torch.cuda.reset_peak_memory_stats()
        self._before = torch.cuda.memory_allocated()

    def peak_bytes(self) -> int:
        """Return how much more than at the beginning was in use at the peak."""
        import torch

        return int(torch.cuda.max_memory_allocated()) - self._before


def batches_for(
    settings: SmolVLMSettings, picture_bytes: int, release: Callable[[], None] = lambda: None
) -> FittingBatches:
    """Return the batches that the settings ask for.

    Args:
        settings: The annotator's settings.
        picture_bytes: The most bytes that the pixels of a crop take, prepared for the model.
        release: Frees what the model keeps between batches.
    """
    if settings.batch_size != "auto":
        return FittingBatches(settings.batch_size, release)
    most = max(1, min(MOST, BATCH_BYTES // max(1, picture_bytes)))
    memory = CudaMemory(settings.gpus_per_actor) if settings.gpus_per_actor > 0 else None
    return FittingBatches(min(USUAL, most), release, memory, most)
