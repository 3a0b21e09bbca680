"""The base of every configuration section."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A validated, frozen part of the configuration; unknown keys are refused.

    Each section is defined beside the code that it configures. Every field carries a
    `description`, which `shopframe config --explain` prints.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())
