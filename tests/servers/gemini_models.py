"""How the models of Gemini differ: which arguments they refuse, and how many tokens an image counts as.

The rules follow documentation and reports of November 2026; nobody has compared them with the real service.
They are written down here a second time, independently of the code that is tested.
"""

from __future__ import annotations

import math
from typing import Any

_TOKENS_3 = {"LOW": 280, "MEDIUM": 560, "HIGH": 1120}
_LEVELS = ("MINIMAL", "LOW", "MEDIUM", "HIGH")
_THOUGHTS = {"MINIMAL": 0, "LOW": 40, "MEDIUM": 90, "HIGH": 250}
_MOST_OUTPUT = 65_536


def is_2_5(model: str) -> bool:
    """Return whether a model is of the 2.5 family; all others behave as 3.x."""
    return model.startswith("gemini-2.5-")


def refusal_of(config: dict[str, Any], model: str) -> str | None:
    """Return why a model refuses the arguments of a request with 400, or None if it accepts them.

    Args:
        config: The `generationConfig`, with names in camelCase.
        model: Name of the model.
    """
    thinking = config.get("thinkingConfig") or {}
    budget, level = thinking.get("thinkingBudget"), thinking.get("thinkingLevel")
    if budget is not None and level is not None:
        return "You can only set only one of thinking budget and thinking level."
    if not 1 <= config.get("maxOutputTokens", 1) <= _MOST_OUTPUT:
        return f"max_output_tokens must be from 1 to {_MOST_OUTPUT}."
    if is_2_5(model):
        if level is not None:
            return "Thinking level is not supported for this model."
        most = 32_768 if "-pro" in model else 24_576
        if budget is not None and not -1 <= budget <= most:
            return f"The thinking budget {budget} is invalid. Please choose a value between -1 and {most}."
        if budget == 0 and "-pro" in model:
            return "Budget 0 is invalid. This model only works in thinking mode."
        return None
    if "presencePenalty" in config or "frequencyPenalty" in config:
        return f"Penalty is not enabled for models/{model}"
    if budget == 0:
        return "Budget 0 is invalid. This model only works in thinking mode."
    if level is not None and str(level).upper() not in _LEVELS:
        return f"Invalid thinking level {level}."
    if str(level).upper() == "MINIMAL" and "-pro" in model:
        return "Thinking level MINIMAL is not supported for this model."
    return None


def thought_tokens(config: dict[str, Any], model: str) -> int:
    """Return how many tokens a model thinks before an answer."""
    thinking = config.get("thinkingConfig") or {}
    if is_2_5(model):
        # Without a budget, the model chooses one itself.
        return min(40, thinking.get("thinkingBudget") or 0) if thinking.get("thinkingBudget") != -1 else 40
    at_first = "MINIMAL" if model.endswith("-flash-lite") else "HIGH"
    return _THOUGHTS[str(thinking.get("thinkingLevel") or at_first).upper()]


def image_tokens(width: int, height: int, resolution: str | None, model: str) -> int:
    """Return how many input tokens an image counts as.

    Args:
        width: Width in pixels.
        height: Height in pixels.
        resolution: The request's `mediaResolution`, or None.
        model: Name of the model.
    """
    level = (resolution or "").removeprefix("MEDIA_RESOLUTION_")
    if not is_2_5(model):
        return _TOKENS_3.get(level, _TOKENS_3["HIGH"])
    # Sources: ai.google.dev/gemini-api/docs/tokens, and the values of media_resolution in google-genai.
    if level in ("LOW", "MEDIUM"):
        return 64 if level == "LOW" else 256
    if width <= 384 and height <= 384:
        return 258
    unit = max(1, int(min(width, height) / 1.5))
    return 258 * math.ceil(width / unit) * math.ceil(height / unit)
