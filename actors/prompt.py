"""The prompts of the annotators: text files with placeholders for what follows from the attributes."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from actors.errors import ConfigError

log = logging.getLogger(__name__)

_ATTRIBUTES = "{schema}"
_UNCERTAINTY = "{uncertainty}"


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt with the attributes filled in.

    Attributes:
        text: The text that is sent to the model.
        source: Path of the file, or "the shipped prompt", for messages.
    """

    text: str
    source: str

    @property
    def sha256(self) -> str:
        """The SHA-256 of the text, in hexadecimal, which identifies it."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def read_prompt(setting: str, path: str | None, shipped: str, attributes: str, uncertainty: str) -> Prompt:
    """Read a prompt; the driver does this once, before any work starts.

    Args:
        setting: Name of the setting, for messages.
        path: The user's file, or None for the shipped one.
        shipped: Name of the shipped file in `conf/prompts/`.
        attributes: The text that replaces `{schema}`, a list of the attributes.
        uncertainty: The text that replaces `{uncertainty}`: what to answer where something can't be seen.

    Raises:
        ConfigError: The file can't be read or is empty.
    """
    source = path or "the shipped prompt"
    try:
        if path is None:
            text = files("conf").joinpath("prompts", shipped).read_text(encoding="utf-8")
        else:
            text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{setting}: {source} can't be read: {error}") from None
    if not text.strip():
        raise ConfigError(f"{setting}: {source} is empty")
    if _ATTRIBUTES not in text:
        log.warning("%s: %s has no {schema}, so the model isn't told the allowed values", setting, source)
    return Prompt(text.strip().replace(_ATTRIBUTES, attributes).replace(_UNCERTAINTY, uncertainty), source)
