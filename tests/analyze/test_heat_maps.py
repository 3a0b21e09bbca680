"""Heat maps lie over the median of empty frames, which are read from the input again."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from actors.storage.object_store import ObjectStore
from jobs.settings import Settings
from tests.analyze.tracked import BEGAN, Analyze, person
from tests.support import bad_inputs as bad
from tests.support.committed import write_output
from tests.support.consolidating import consolidate

FLOOR, PASSER = 200, 20


def picture(value: int) -> bytes:
    return cv2.imencode(".jpg", np.full((108, 192, 3), value, np.uint8))[1].tobytes()


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    """Ten frames of a camera: somebody stands at the right in five, and one empty one is dark."""
    (tmp_path / "in").mkdir()
    values = {f"f{n}": PASSER if n in (5, 6, 7, 8, 9, 2) else FLOOR for n in range(10)}
    (tmp_path / "in" / "a.tar").write_bytes(bad.tar({f"{k}.jpg": picture(v) for k, v in values.items()}))
    settings = Settings.model_validate({"input": {"uri": str(tmp_path / "in")}})
    store = ObjectStore(str(tmp_path / "out"))
    frames = {key: [person(0.75, 0.5)] if int(key[1]) >= 5 else [] for key in values}
    times = {key: BEGAN.replace(second=5 * int(key[1])) for key in values}
    write_output(store, {"a": frames}, settings, cameras=dict.fromkeys(values, "till/2"), times=times)
    consolidate(store)
    return store


def drawn(store: ObjectStore, name: str) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(store.read(f"analysis/{name}"), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def test_people_are_warm_over_the_empty_view(store: ObjectStore, analyze: Analyze):
    (one,) = analyze.finds(store)["heat_maps"]
    assert (one["camera"], one["empty_frames"], one["trouble"]) == ("till/2", 5, None)
    image = drawn(store, one["file"])
    assert image.shape == (540, 960, 3)
    assert (image[:, :480] // 8 == FLOOR // 8).all()
    hottest = image[270, 720].astype(int)
    assert hottest.max() - hottest.min() > 60


def test_a_heat_map_without_input_is_grey_and_says_why(store: ObjectStore, analyze: Analyze, tmp_path: Path):
    (tmp_path / "in" / "a.tar").unlink()
    assert "background of the heat map of till/2: " in analyze.says(store)
    (one,) = analyze.finds(store)["heat_maps"]
    assert one["empty_frames"] == 0
    assert one["trouble"].endswith("a.tar is no longer there")
    assert (drawn(store, one["file"])[:, :480] // 8 == 60 // 8).all()
