"""Bad weights are refused before a run starts, and none runs code."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.attribute_settings import SchemaSettings
from actors.attributes import AttributeSchema
from actors.detect.settings import DetectorSettings, resolve_detector
from actors.errors import WeightsError
from actors.smolvlm.settings import SmolVLMSettings, resolve_smolvlm
from actors.storage.settings import StorageSettings
from tests.corpus.configurations import CANARY
from tests.corpus.weights import WEIGHTS, BadWeights


def resolve(kind: BadWeights, folder: Path) -> None:
    if "model.pt" in kind.files:
        weights, cache = str(folder / "model.pt"), folder / "cache"
        resolve_detector(
            DetectorSettings(weights=weights, cache_dir=cache, backend="onnx"), StorageSettings()
        )
    else:
        settings = SmolVLMSettings(model=str(folder), engine="guided")
        resolve_smolvlm(settings, AttributeSchema(SchemaSettings()))


@pytest.mark.parametrize("kind", WEIGHTS, ids=[kind.name for kind in WEIGHTS])
def test_bad_weights_are_refused_and_run_no_code(kind, tmp_path, monkeypatch):
    for name, value in kind.environment.items():
        monkeypatch.setenv(name, value)
    for name, content in kind.files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError) as refused:
        resolve(kind, tmp_path)
    assert kind.says in str(refused.value)
    assert str(tmp_path) in str(refused.value)
    assert not CANARY.exists()
