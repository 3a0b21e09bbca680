"""Settings whose defaults have changed: an existing output keeps those that it was made with.

A changed default would otherwise do every shard of every output again at the next run, and pay for it. It
applies to new outputs, and to those whose settings name it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from jobs.settings import LoadedSettings, Settings

_NULLABLE = ("glasses", "cap", "hood", "headscarf", "mask", "occlusion", "facing_camera")

_FORMER: Mapping[str, Any] = {
    "crops.padding": 0.05,
    "smolvlm.letterbox": False,
    "schema.rules": [],
    "schema.attributes.age_group.ranges": None,
    **{f"schema.attributes.{name}.nullable": False for name in _NULLABLE},
}
"""The defaults of version 0.1 that are others now, or what it did where it did not know the setting."""

_ADDED: Mapping[str, Any] = {"smolvlm.engine": "auto", "input.timezone": "UTC"}
"""Settings that version 0.1 did not know, with the value that stands for what it did."""

_SECTIONS = {"crops": "crops", "smolvlm": "smolvlm", "schema": "attributes"}
"""Name of the field of `Settings` that holds a section."""

_MISSING = object()


@dataclass(frozen=True, slots=True)
class KeptDefaults:
    """The settings of a run, and which of them are former defaults that the output keeps.

    Attributes:
        settings: The settings.
        paths: The settings that are former defaults.
    """

    settings: Settings
    paths: tuple[str, ...] = ()

    def line(self) -> str | None:
        """Return what the user should know, or None if nothing was kept."""
        if not self.paths:
            return None
        kept = ", ".join(f"{path}={json.dumps(_FORMER[path])}" for path in self.paths)
        return (
            f"defaults that have changed since this output was begun stay as they were: {kept}; the new ones "
            "are used if you set them, or all of them with --config default.yaml"
        )


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recorded configuration with the settings that its version did not know."""
    completed = copy.deepcopy(dict(config))
    for path, former in (*_FORMER.items(), *_ADDED.items()):
        holder = _holder(completed, path)
        if holder is not None:
            holder.setdefault(path.rpartition(".")[2], former)
    return completed


def keep_former_defaults(
    loaded: LoadedSettings, recorded: Mapping[str, Any] | None, kept_before: Collection[str] | None
) -> KeptDefaults:
    """Return the settings, with former defaults where the output has them and nothing else is given.

    Args:
        loaded: The settings of a run.
        recorded: The complete configuration of the output's last run, or None if there was none.
        kept_before: The former defaults that the last run kept, or None if an earlier version made it.
    """
    settings, kept = loaded.settings, []
    for path, former in _FORMER.items() if recorded is not None else ():
        candidate = kept_before is None or path in kept_before
        if not candidate or loaded.is_given(path) or _value(recorded or {}, path) != former:
            continue
        if _value(settings.as_dict(), path) not in (former, _MISSING):
            settings = _with(settings, path, former)
            kept.append(path)
    return KeptDefaults(settings, tuple(kept))


def _with(settings: Settings, path: str, value: Any) -> Settings:
    section, _, key = path.partition(".")
    current = getattr(settings, _SECTIONS[section])
    content = current.model_dump()
    holder = _holder(content, key) if "." in key else content
    if holder is None:
        return settings
    holder[key.rpartition(".")[2]] = value
    return settings.model_copy(update={_SECTIONS[section]: type(current).model_validate(content)})


def _holder(content: Any, path: str) -> dict[str, Any] | None:
    """Return the mapping that has the last key of a path, or None if it doesn't exist."""
    for key in path.split(".")[:-1]:
        content = content.get(key) if isinstance(content, dict) else None
    return content if isinstance(content, dict) else None


def _value(content: Mapping[str, Any], path: str) -> Any:
    holder = _holder(content, path)
    return _MISSING if holder is None else holder.get(path.rpartition(".")[2], _MISSING)
