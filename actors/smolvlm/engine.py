"""What the engines have in common: each answers about crops, and is loaded once in each worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from actors.attributes import AttributeSchema
from actors.records import Annotation
from actors.smolvlm.settings import ResolvedSmolVLM, SmolVLMSettings


class CropEngine(Protocol):
    """Annotates crops."""

    def annotate(
        self, crops: Sequence[bytes], answered: Callable[[int, Sequence[Annotation]], None]
    ) -> list[Annotation]:
        """Annotate each crop.

        Args:
            crops: JPEGs of one person each.
            answered: Called with annotations as they come, and the position of the first one's crop.

        Returns:
            One annotation per crop, in the same order.
        """


def load_engine(
    settings: SmolVLMSettings, resolved: ResolvedSmolVLM, schema: AttributeSchema, threads: int
) -> CropEngine:
    """Load the engine that the settings resolve to.

    Args:
        settings: The annotator's settings.
        resolved: The model and prompt.
        schema: The attributes.
        threads: Number of CPU threads for the model.

    Raises:
        ConfigError: The model can't be loaded on this machine, or a server refuses the key or the question.
    """
    if resolved.engine == "server":
        from actors.smolvlm.server_engine import ServerEngine

        return ServerEngine(settings, resolved, schema)
    import torch

    # Ray limits libraries to one thread per core that an actor reserves. On a CPU the model accounts for
    # almost all of a run's time, so it uses the threads of its whole node.
    torch.set_num_threads(threads)
    if resolved.engine == "generate":
        from actors.smolvlm.generate_engine import GenerateEngine

        return GenerateEngine(settings, resolved, schema)
    from actors.smolvlm.crop_annotator import CropAnnotator

    return CropAnnotator(settings, resolved, schema)
