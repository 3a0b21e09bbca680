"""Crops of persons with their attributes: the layouts of Hugging Face datasets and of WebDataset."""

from __future__ import annotations

import io
import json
import tarfile
from abc import abstractmethod
from collections import defaultdict
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from actors.attribute import Attribute
from jobs.dataset.final_persons import FinalFrame, FinalPerson
from jobs.dataset.writer import Writer

_FILE_BYTES = 128 * 2**20
"""Size of the crops from which on a file is written and the next one begun."""

HF_NAMES = {"train": "train", "val": "validation", "test": "test"}
"""The names that Hugging Face's libraries give to splits."""


class CropWriter(Writer):
    """Collects crops until they fill a file."""

    what = "person"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._waiting: defaultdict[str, list[tuple[bytes, dict[str, Any]]]] = defaultdict(list)
        self._bytes: defaultdict[str, int] = defaultdict(int)
        self._files: defaultdict[str, int] = defaultdict(int)

    @abstractmethod
    def write_file(self, split: str, number: int, samples: list[tuple[bytes, dict[str, Any]]]) -> None:
        """Write crops with what is known about them as the file of this number."""

    def persons_of(self, frame: FinalFrame) -> list[FinalPerson]:
        """Return the chosen persons."""
        return [person for person in frame.persons if person.is_chosen]

    def make(self, split: str, frame: FinalFrame, data: bytes) -> Any:  # noqa: ARG002
        """Return the crops."""
        return self.cut(frame, data)

    def add(self, split: str, frame: FinalFrame, made: Any) -> None:
        """Add the crops to the file of the split, and write it if it is full."""
        for person, crop in zip(self.persons_of(frame), made, strict=True):
            self._waiting[split].append((crop, _facts(frame, person)))
            self._bytes[split] += len(crop)
        if self._bytes[split] >= _FILE_BYTES:
            self._flush(split)

    def finish(self) -> None:
        """Write the files that are not full."""
        for split in self.splits:
            if self._waiting[split]:
                self._flush(split)

    def _flush(self, split: str) -> None:
        self.write_file(split, self._files[split], self._waiting.pop(split))
        self._files[split] += 1
        self._bytes[split] = 0


class HuggingFaceWriter(CropWriter):
    """Parquet files with an image column, which `datasets.load_dataset` loads with their types.

    Source: `https://huggingface.co/docs/datasets/image_dataset` and the metadata that `datasets` 5 writes:
    the features are JSON under the key `huggingface` of the Arrow schema.
    """

    def write_file(self, split: str, number: int, samples: list[tuple[bytes, dict[str, Any]]]) -> None:
        """Write one Parquet file. Its row groups are small, so that a reader can take some of the crops."""
        columns: dict[str, list[Any]] = {name: [] for name in self._schema.names}
        for crop, facts in samples:
            columns["image"].append({"bytes": crop, "path": None})
            for name in _FACTS:
                columns[name].append(facts[name])
            for attribute in self.attributes:
                label = facts["labels"][attribute.name]
                columns[attribute.name].append(_class_number(label.value, attribute))
                columns[f"{attribute.name}_source"].append(label.source)
                columns[f"{attribute.name}_confidence"].append(label.confidence)
        sink = io.BytesIO()
        table = pa.table(columns, schema=self._schema)
        pq.write_table(table, sink, row_group_size=1000, compression="zstd")
        self.to.write(f"data/{HF_NAMES[split]}-{number:05d}.parquet", sink.getvalue())

    @property
    def _schema(self) -> pa.Schema:
        image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        fields = [pa.field("image", image), *(pa.field(name, kind) for name, kind in _FACTS.items())]
        features: dict[str, Any] = {"image": {"_type": "Image"}}
        features |= {name: _value_feature(kind) for name, kind in _FACTS.items() if name != "bbox"}
        features["bbox"] = {"feature": _value_feature(pa.float32()), "length": 4, "_type": "Sequence"}
        for attribute in self.attributes:
            kind = pa.int64() if attribute.type == "category" else attribute.plain_arrow_type
            feature = _value_feature(kind)
            if attribute.type == "category":
                feature = {"names": list(attribute.values), "_type": "ClassLabel"}
            more = {f"{attribute.name}_source": pa.string(), f"{attribute.name}_confidence": pa.float32()}
            fields += [pa.field(attribute.name, kind), *(pa.field(name, one) for name, one in more.items())]
            features[attribute.name] = feature
            features |= {name: _value_feature(one) for name, one in more.items()}
        info = json.dumps({"info": {"features": features}}, ensure_ascii=False)
        return pa.schema(fields, metadata={"huggingface": info})


class WebDatasetWriter(CropWriter):
    """Tars of `<number>.jpg` and `<number>.json`, which WebDataset and Hugging Face datasets stream.

    Source: `https://github.com/webdataset/webdataset`. Numbers go on from file to file of a split.
    """

    def write_file(self, split: str, number: int, samples: list[tuple[bytes, dict[str, Any]]]) -> None:
        """Write one tar. Equal samples give equal bytes."""
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w") as tar:
            for position, (crop, facts) in enumerate(samples):
                time = facts["captured_at"]
                labels = facts.pop("labels")
                said = {name: label.value for name, label in labels.items()}
                said |= {f"{name}_source": label.source for name, label in labels.items()}
                said |= {f"{name}_confidence": label.confidence for name, label in labels.items()}
                facts |= {"captured_at": None if time is None else time.isoformat(), **said}
                key = f"{number:06d}{position:06d}"
                for ending, content in (("jpg", crop), ("json", json.dumps(facts).encode())):
                    entry = tarfile.TarInfo(f"{key}.{ending}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
        self.to.write(f"{split}-{number:06d}.tar", sink.getvalue())


_FACTS: dict[str, pa.DataType] = {
    "person_id": pa.string(),
    "shard_id": pa.string(),
    "frame_key": pa.string(),
    "camera": pa.string(),
    "captured_at": pa.timestamp("us", tz="UTC"),
    "bbox": pa.list_(pa.float32(), 4),
}
"""What is known about a person beside its labels, with the type of the column."""


def _facts(frame: FinalFrame, person: FinalPerson) -> dict[str, Any]:
    return {
        "person_id": person.person_id,
        "shard_id": frame.shard_id,
        "frame_key": frame.frame_key,
        "camera": frame.camera,
        "captured_at": frame.captured_at,
        "bbox": list(person.box),
        "labels": person.labels,
    }


def _class_number(value: Any, attribute: Attribute) -> Any:
    """Return the number of a category's value, or another value as it is. A former value has no number."""
    if attribute.type != "category":
        return value
    return attribute.values.index(value) if value in attribute.values and value is not None else None


def _value_feature(kind: pa.DataType) -> dict[str, Any]:
    names = {pa.float32(): "float32", pa.timestamp("us", tz="UTC"): "timestamp[us, tz=UTC]"}
    return {"dtype": names.get(kind, str(kind)), "_type": "Value"}
