"""Libraries that others wrote load the data sets that `shopframe export` writes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import datasets
from datumaro.components.dataset import Dataset


def test_datasets_loads_the_parquet_files_with_their_types(exports: Path, tmp_path: Path):
    # The folder's card names the files of each split.
    loaded = datasets.load_dataset(str(exports / "data" / "hf"), cache_dir=str(tmp_path))
    assert {len(split) for split in loaded.values()} == {3}
    assert set(loaded) <= {"train", "validation", "test"}
    split = next(iter(loaded.values()))
    assert split.features["mood"].names == ['froh "lustig"', "l'été <b>&amp;", "日本語", "null"]
    assert isinstance(split.features["image"], datasets.Image)
    rows = sorted((row for split in loaded.values() for row in split), key=lambda row: row["person_id"])
    assert [row["person_id"] for row in rows] == [f"a/{key}/{number}" for key in "fg" for number in range(3)]
    first, second = rows[:2]
    assert split.features["mood"].int2str(first["mood"]) == 'froh "lustig"'
    assert (first["glasses"], first["steps"], second["steps"]) == (True, -5, None)
    assert (first["gender_source"], first["gender_confidence"]) == ("smolvlm", 0.5)
    assert first["captured_at"] == datetime(2024, 5, 1, 9, tzinfo=UTC)
    assert [round(side, 4) for side in first["bbox"]] == [0.1, 0.1, 0.2, 0.5]
    # 200 by 400 pixels with a margin of a tenth on each side, rounded outwards.
    assert first["image"].size == (241, 480)


def test_datasets_streams_the_tars(exports: Path):
    streamed = datasets.load_dataset(str(exports / "data" / "webdataset"), streaming=True)
    samples = [sample for split in streamed.values() for sample in split]
    persons = {sample["json"]["person_id"]: sample for sample in samples}
    assert sorted(persons) == [f"a/{key}/{number}" for key in "fg" for number in range(3)]
    assert persons["a/f/2"]["json"]["mood"] == "日本語"
    assert persons["a/f/0"]["jpg"].size == (241, 480)


def test_datumaro_loads_the_instances(exports: Path):
    loaded = Dataset.import_from(str(exports / "data" / "coco"), "coco_instances")
    boxes = {box.attributes["person_id"]: box for item in loaded for box in item.annotations}
    assert sorted(boxes) == [f"a/{key}/{number}" for key in "fg" for number in range(3)]
    assert boxes["a/f/1"].attributes["mood"] == "l'été <b>&amp;"
    assert all(item.media.data.shape == (1000, 2000, 3) for item in loaded)
