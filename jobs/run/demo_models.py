"""The embedded demo: its models are known wherever they are used, and its scenes have to be drawn first."""

from __future__ import annotations

import hashlib
from pathlib import Path

from actors.detect.settings import ResolvedDetector
from actors.errors import ConfigError
from actors.smolvlm.settings import ResolvedSmolVLM
from jobs.settings import CONF, LoadedSettings

CONFIG = CONF / "demo.yaml"
KNOWN_WEIGHTS = CONF / "demo_models.sha256"
"""What `sha256sum` prints of the weights of the demo's models, from the root of the repository. A model
that is trained again needs its new line here, or nothing says any more that it is for the demo."""

_VLM_WEIGHTS = "model.safetensors"
_LARGEST_BYTES = 16 << 20
"""Both of the demo's models together are smaller; larger weights needn't be read to know what they aren't."""


def check_scenes(loaded: LoadedSettings) -> None:
    """See that the frames which the demo's configuration names have been drawn.

    Raises:
        ConfigError: They are missing.
    """
    source, uri = loaded.sources.get("input.uri"), loaded.settings.input.uri
    if source is None or uri is None or Path(source).resolve() != CONFIG.resolve() or Path(uri).is_dir():
        return
    raise ConfigError(
        f"input.uri: the demo's frames aren't drawn yet ({Path(uri).absolute()} is missing); run `make demo` "
        "in the root of the repository, which draws them and goes on with them"
    )


def demo_models(detector: ResolvedDetector, smolvlm: ResolvedSmolVLM | None) -> list[str]:
    """The stages whose model is one of the demo's, under whatever name and from whatever place.

    Weights are told by their SHA-256: no other model is ever taken for one of the demo's.
    """
    known = {line.split()[0] for line in KNOWN_WEIGHTS.read_text(encoding="ascii").splitlines()}
    found = ["detector"] if detector.weights_sha256 in known else []
    if smolvlm is not None and _vlm_weights_sha256(Path(smolvlm.source)) in known:
        found.append("smolvlm")
    return found


def notice_of(stages: list[str]) -> str | None:
    """What a person is told about the demo's models of a run; None if it has none."""
    if not stages:
        return None
    return (
        f"demo models ({', '.join(stages)}): trained on simulated scenes alone, "
        "what they say of photographs means nothing"
    )


def _vlm_weights_sha256(folder: Path) -> str | None:
    weights = folder / _VLM_WEIGHTS
    if not weights.is_file() or weights.stat().st_size > _LARGEST_BYTES:
        return None
    return hashlib.sha256(weights.read_bytes()).hexdigest()
