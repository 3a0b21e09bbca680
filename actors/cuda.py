"""Whether a worker that was given a GPU can use it."""

from __future__ import annotations

import socket

from actors.errors import ConfigError


def require_cuda(setting: str) -> None:
    """See that this process finds a CUDA device.

    Ray hands out GPUs by count: a node that announces one may have no driver, or none that torch can use.

    Args:
        setting: The setting that asked for the GPU, named in the error.

    Raises:
        ConfigError: There is no CUDA device.
    """
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(
            f"{setting}: a worker on {socket.gethostname()} was given a GPU and finds no CUDA device; check "
            "the NVIDIA driver of that node (nvidia-smi), or change the setting to run on the CPU"
        )
