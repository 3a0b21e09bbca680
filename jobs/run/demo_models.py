"""Checks for the embedded demo: its models are recognised in any run, and its frames must be drawn first."""

from __future__ import annotations

import hashlib
from pathlib import Path

from actors.detect.settings import ResolvedDetector
from actors.errors import ConfigError
from actors.smolvlm.settings import ResolvedSmolVLM
from jobs.settings import CONF, LoadedSettings

CONFIG = CONF / "demo.yaml"
KNOWN_WEIGHTS = CONF / "demo_models.sha256"
"""The output of `sha256sum` for the weights of the demo's models, run in the root of the repository. If a
model is trained again, its line must be updated, or the model is no longer recognised as the demo's."""

_VLM_WEIGHTS = "model.safetensors"
_LARGEST_BYTES = 16 << 20
"""Both models of the demo together are smaller than this, so larger weights are not read at all."""


def check_scenes(loaded: LoadedSettings) -> None:
    """Check that the frames named by the demo's configuration have been drawn.

    Raises:
        ConfigError: If they are missing.
    """
    source, uri = loaded.sources.get("input.uri"), loaded.settings.input.uri
    if source is None or uri is None or Path(source).resolve() != CONFIG.resolve() or Path(uri).is_dir():
        return
    raise ConfigError(
        f"input.uri: the demo's frames aren't drawn yet ({Path(uri).absolute()} is missing); run `make demo` "
        "in the root of the repository, which draws and annotates them"
    )


def demo_models(detector: ResolvedDetector, smolvlm: ResolvedSmolVLM | None) -> list[str]:
    """Return the stages whose model is one of the demo's, whatever its name and location.

    Weights are recognised by their SHA-256, so no other model is mistaken for one of the demo's.
    """
    known = {line.split()[0] for line in KNOWN_WEIGHTS.read_text(encoding="ascii").splitlines()}
    found = ["detector"] if detector.weights_sha256 in known else []
    if smolvlm is not None and _vlm_weights_sha256(Path(smolvlm.source)) in known:
        found.append("smolvlm")
    return found


def notice_of(stages: list[str]) -> str | None:
    """Return the notice about the demo's models in a run, or None if it uses none of them."""
    if not stages:
        return None
    return (
        f"demo models ({', '.join(stages)}): they were trained only on simulated scenes, "
        "so their answers about photographs are meaningless"
    )


def _vlm_weights_sha256(folder: Path) -> str | None:
    weights = folder / _VLM_WEIGHTS
    if not weights.is_file() or weights.stat().st_size > _LARGEST_BYTES:
        return None
    return hashlib.sha256(weights.read_bytes()).hexdigest()
