"""The weights of attributes in the uncertainty by which `least_confident` ranks persons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from actors.attributes import AttributeSchema
from actors.errors import ConfigError

AttributeWeights = dict[str, Annotated[float, Field(ge=0)]]
"""Weights by attribute; one that isn't named has the weight 1."""


def check_weights(weights: Mapping[str, float], schema: AttributeSchema) -> None:
    """Check that every weight is of an attribute that SmolVLM is asked about.

    Raises:
        ConfigError: A weight is of no attribute.
    """
    unknown = sorted(weights.keys() - set(schema.names))
    if unknown:
        raise ConfigError(
            f"gemini.attribute_weights.{unknown[0]}: no such attribute; the schema has "
            f"{', '.join(schema.names)}"
        )
