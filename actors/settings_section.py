"""The base class of all configuration sections."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A validated, frozen part of the configuration, which rejects unknown keys.

    Each section is defined next to the code that it configures. Every field carries a
    `description`, which `shopframe config --explain` prints.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())
