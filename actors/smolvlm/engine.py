"""What the engines have in common: each answers about crops, and is loaded once in each worker."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from actors.attributes import AttributeSchema
from actors.errors import TokenizationError, WeightsError
from actors.records import Annotation
from actors.smolvlm.settings import ResolvedSmolVLM, SmolVLMSettings

log = logging.getLogger(__name__)


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
    settings: SmolVLMSettings,
    resolved: ResolvedSmolVLM,
    schema: AttributeSchema,
    threads: int,
    tower: Sequence[bytes] | None = None,
) -> CropEngine:
    """Load the engine that the settings resolve to.

    `auto` is guided decoding where the tokenizer suits it. That follows from the model, the schema and the
    prompt, which are in the fingerprint, so all workers and runs that share answers choose the same engine.

    Args:
        settings: The annotator's settings.
        resolved: The model and prompt.
        schema: The attributes.
        threads: Number of CPU threads for the model.
        tower: XML and weights of the network that is the vision tower of `guided`; None for the model's own.

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
    if resolved.engine != "generate":
        from actors.smolvlm.guided_engine import GuidedEngine

        try:
            engine = GuidedEngine(settings, resolved, schema)
        except TokenizationError as error:
            reason = f"the tokenizer of {resolved.model} doesn't suit guided decoding: {error}"
            if resolved.engine == "guided":
                raise WeightsError(f"smolvlm.engine: {reason}; use auto or generate") from error
            log.warning("smolvlm.engine: %s; generate is used, which is slower", reason)
        else:
            if tower is not None:
                from actors.smolvlm.vision_tower import VisionTower

                engine.vision = VisionTower(tower, resolved.tower_arithmetic, threads)
            return engine
    from actors.smolvlm.generate_engine import GenerateEngine

    return GenerateEngine(settings, resolved, schema)
