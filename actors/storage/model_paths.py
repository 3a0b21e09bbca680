"""Names of the networks that were made for an output, and of what was compared to choose them."""

from __future__ import annotations

MODELS = "models"
"""Folder of the networks under the output URI."""


def network_path(sha256: str, suffix: str) -> str:
    """Path of the XML (`xml`) or the weights (`bin`) of a network with this digest."""
    return f"{MODELS}/{sha256}/network.{suffix}"


def int8_choice_path(key: str) -> str:
    """Path of the record whether the network with this key is used in int8."""
    return f"{MODELS}/int8-{key}.json"
