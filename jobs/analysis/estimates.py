"""Shares with what they rest on, and an interval where there is one."""

from __future__ import annotations

from dataclasses import dataclass

MODELS_GUESS = "a model's guess, without any human label"


@dataclass(frozen=True, slots=True)
class ModelShare:
    """A share, its 95% interval if one is known, and what it rests on, in words."""

    share: float | None
    low: float | None
    high: float | None
    rests_on: str


def model_share(hits: int, total: int) -> ModelShare:
    """Return the share of final values that are `hits` of `total`.

    Models' answers alone say nothing about how often they are wrong, so the share has no interval.
    """
    return ModelShare(hits / total if total else None, None, None, MODELS_GUESS)
