"""What the user should know about the model and the settings of Gemini before a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from actors.gemini.api.model_families import FACTS_OF, NEWEST, is_known

if TYPE_CHECKING:
    from actors.gemini.settings import GeminiSettings


def notices_of(settings: GeminiSettings) -> tuple[str, ...]:
    """Return what the user should know about the model and these settings before a run."""
    said = []
    model, family, price = settings.model, settings.family, settings.price
    if not is_known(model):
        said.append(
            f"gemini.model: {model} is not in Shopframe's table of models, so it is asked by the "
            f"rules of {NEWEST.name}.x, the newest family there (documentation of {FACTS_OF})"
        )
    unused = {"level": "thinking_budget", "budget": "thinking_level"}[family.thinks_by]
    if getattr(settings, unused) is not None:
        said.append(
            f"gemini.{unused}: has no effect on {model}, which takes gemini.thinking_{family.thinks_by}"
        )
    if settings.temperature and not family.follows_temperature:
        said.append(f"gemini.temperature: has no effect on {model}, which ignores it")
    if settings.max_cost_usd is not None and price.is_estimate:
        said.append(
            f"gemini.max_cost_usd: the price of {model} is an estimate "
            f"(${price.input_usd:g} in, ${price.output_usd:g} out per million tokens); look it "
            "up and set gemini.prices"
        )
    return tuple(said)
