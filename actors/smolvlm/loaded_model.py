"""Load a model and its processor from a checkpoint."""

from __future__ import annotations

import logging
from typing import Any

from actors.errors import WeightsError
from actors.smolvlm.settings import ResolvedSmolVLM, SmolVLMSettings

log = logging.getLogger(__name__)


def load_model(settings: SmolVLMSettings, resolved: ResolvedSmolVLM, **options: Any) -> tuple[Any, Any]:
    """Load the model onto its device.

    Args:
        settings: The annotator's settings.
        resolved: The model.
        options: Further arguments of `AutoModelForImageTextToText.from_pretrained`.

    Returns:
        The model in eval mode, and its processor.

    Raises:
        WeightsError: The files can't be loaded on this machine.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    device = "cuda" if settings.gpus_per_actor > 0 else "cpu"
    if device == "cuda" and resolved.dtype == "bfloat16" and not torch.cuda.is_bf16_supported(False):
        log.warning(
            "smolvlm.dtype: %s has no bfloat16 and is slow with it; float16 is faster, and asks again about "
            "every person",
            torch.cuda.get_device_name(),
        )
    try:
        processor = AutoProcessor.from_pretrained(
            resolved.source, revision=resolved.revision, trust_remote_code=False
        )
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            resolved.source,
            revision=resolved.revision,
            dtype=getattr(torch, resolved.dtype),
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
        model, loading = loaded
        model = model.to(device).eval()
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise WeightsError(
            f"smolvlm.model: {resolved.source} can't be loaded on this machine: {error}; if it is a "
            "folder, every worker must see it"
        ) from error
    if loading["missing_keys"]:
        # transformers initialises missing weights with random numbers and continues.
        missing = ", ".join(sorted(loading["missing_keys"])[:3])
        raise WeightsError(f"smolvlm.model: {resolved.source} lacks weights: {missing}")
    return model, processor
