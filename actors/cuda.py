"""Check that a worker that was given a GPU can use it."""

from __future__ import annotations

import socket

from actors.errors import ConfigError


def require_cuda(setting: str) -> None:
    """Check that this process finds a CUDA device.

    Ray assigns GPUs by count only: a node that reports a GPU may have no driver, or one that torch can't use.

    Args:
        setting: The setting that requested the GPU, for the error message.

    Raises:
        ConfigError: There is no CUDA device.
    """
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(
            f"{setting}: a worker on {socket.gethostname()} was given a GPU but finds no CUDA device; check "
            "the NVIDIA driver of that node (nvidia-smi), or change the setting to run on the CPU"
        )
