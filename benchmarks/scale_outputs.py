"""Make outputs of many committed shards, for `benchmarks.scale`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs

from actors.attributes import AttributeSchema
from actors.commit.committed_shard import input_identity
from actors.commit.committer import Committer
from actors.commit.settings import OutputSettings
from actors.read.listing import list_shards
from actors.records import FRAMES_SCHEMA, PERSONS_SCHEMA, Annotation, Shard
from actors.shard_block import ShardBlock, ShardTask
from actors.storage import layout
from actors.storage.commit_record import CommitRecord, publish, read_record
from actors.storage.object_store import ObjectStore, content_etag
from actors.storage.settings import StorageSettings
from actors.storage.tables import annotations_table
from jobs.run.resolve import models_of, resolve
from jobs.run.run_log import iso_now
from jobs.run.run_record import Models, PlanCounts, new_run_record, write_run
from jobs.settings import Settings

FRAMES_PER_SHARD = 5
PERSONS_PER_FRAME = 2
PERSONS_PER_SHARD = FRAMES_PER_SHARD * PERSONS_PER_FRAME
_FILES_PER_FOLDER = 1000
_ORIGINALS = 1000
_FOLDERS = (layout.COMMITS, layout.DOCUMENTS, "frames", "persons", "annotations/smolvlm")
_PROVENANCE = {"model": "tiny", "model_version": "1", "prompt_sha256": "0" * 64}


def make_input(folder: Path, shards: int) -> None:
    """Write empty tars, which a run with nothing to do lists and never opens."""
    for number in range(shards):
        parent = folder / f"{number // _FILES_PER_FOLDER:03d}"
        if number % _FILES_PER_FOLDER == 0:
            parent.mkdir(parents=True)
        (parent / f"{number:06d}.tar").touch()


class BlockMaker:
    """Makes blocks that are ready to be committed: 5 frames with 2 persons each, all with an answer."""

    def __init__(self, schema: AttributeSchema) -> None:
        self._rng = np.random.default_rng(0)
        keys = [f"frame-{index:03d}" for index in range(FRAMES_PER_SHARD)]
        self._frames = pa.Table.from_pylist([_frame(key) for key in keys], FRAMES_SCHEMA)
        rows = [_person(key, index) for key in keys for index in range(PERSONS_PER_FRAME)]
        self._persons = pa.Table.from_pylist(rows, PERSONS_SCHEMA)
        self._answers = [
            annotations_table(self._persons, self._answers_of(schema), schema, _PROVENANCE) for _ in range(16)
        ]

    def _answers_of(self, schema: AttributeSchema) -> list[Annotation]:
        return [
            Annotation(
                "ok",
                values={a.name: a.values[self._rng.integers(len(a.values))] for a in schema},
                confidence={a.name: float(self._rng.random()) for a in schema},
            )
            for _ in range(PERSONS_PER_SHARD)
        ]

    def block(self, task: ShardTask) -> ShardBlock:
        """Return the block of a shard, with boxes and answers of its own."""
        corners = np.sort(self._rng.random((PERSONS_PER_SHARD, 2, 2), np.float32), axis=1)
        boxes = pa.FixedSizeListArray.from_arrays(pa.array(corners.ravel()), 4)
        at = self._persons.schema.get_field_index("bbox")
        persons = self._persons.set_column(at, self._persons.schema.field(at), boxes)
        shard_id = task.shard.shard_id
        answers = self._answers[self._rng.integers(len(self._answers))]
        return ShardBlock(
            task=task,
            frames=_of_shard(self._frames, shard_id),
            persons=_of_shard(persons, shard_id),
            annotations={"smolvlm": _of_shard(answers, shard_id)},
            annotated=("smolvlm",),
        )


def _frame(key: str) -> dict[str, object]:
    return {
        "shard_id": "",
        "frame_key": key,
        "width": 1920,
        "height": 1080,
        "camera": "till",
        "detected": PERSONS_PER_FRAME,
        "kept": PERSONS_PER_FRAME,
        "status": "ok",
    }


def _person(key: str, index: int) -> dict[str, object]:
    return {
        "shard_id": "",
        "frame_key": key,
        "person_index": index,
        "bbox": [0, 0, 1, 1],
        "score": 0.9 - index / 10,
        "kept": True,
    }


def _of_shard(table: pa.Table, shard_id: str) -> pa.Table:
    return table.set_column(0, table.schema.field(0), pa.array([shard_id] * table.num_rows))


class _QuickFolder(ObjectStore):
    """A local folder without durable or conditional writes, which take most of the time of a small commit."""

    def __reduce__(self) -> tuple[type[ObjectStore], tuple[str, StorageSettings]]:
        return _QuickFolder, (self.uri, self.settings)

    def write(self, path: str, content: bytes) -> None:
        Path(self.full(path)).write_bytes(content)

    def write_many(self, files: Iterable[tuple[str, bytes]]) -> None:
        for path, content in files:
            self.write(path, content)

    def create(self, path: str, content: bytes) -> str:
        self.write(path, content)
        return content_etag(content)

    def replace(self, path: str, content: bytes, etag: str) -> str:  # noqa: ARG002
        return self.create(path, content)


@dataclass(frozen=True, slots=True)
class Maker:
    """Commits shards to one output. Instances can be pickled."""

    store: ObjectStore
    schema: AttributeSchema
    fingerprints: dict[str, str]
    person_json: str = "tar"

    @classmethod
    def of(cls, settings: Settings) -> Maker:
        """Return the maker of the output of a run with these settings."""
        resolved = resolve(settings)
        store = ObjectStore(str(settings.output.uri), settings.storage)
        return cls(store, resolved.schema, resolved.fingerprints, settings.output.person_json)

    def commit(self, tasks: Sequence[ShardTask]) -> None:
        """Commit shards one after another."""
        made = BlockMaker(self.schema)
        output = OutputSettings.model_validate({"person_json": self.person_json})
        committer = Committer(self.store, output, self.schema, self.fingerprints)
        for task in tasks:
            committer.commit(made.block(task))


def make_output(settings: Settings) -> int:
    """Commit every shard of the input to a local output that doesn't exist, and return their number.

    The committer makes the first 1,000 shards. Each of the others has a record of its own, and links to the
    objects of one of these under its own names.
    """
    maker = Maker.of(settings)
    shards = list(list_shards(settings.input, settings.storage))
    resolved = resolve(settings)
    counts = PlanCounts(shards=len(shards), to_do=len(shards))
    models = models_of(resolved, Models())
    run = new_run_record(iso_now(), settings.as_dict(), resolved.fingerprints, counts, models)
    write_run(maker.store, run)
    for folder in _FOLDERS:
        Path(maker.store.full(folder)).mkdir(parents=True)
    quick = replace(maker, store=_QuickFolder(maker.store.uri))
    originals = shards[:_ORIGINALS]
    quick.commit([ShardTask(shard, "detect") for shard in originals])
    records = [found[0] for shard in originals if (found := read_record(maker.store, shard.shard_id))]
    for number, shard in enumerate(shards[len(originals) :]):
        _link_shard(quick.store, records[number % len(records)], shard)
    return len(shards)


def _link_shard(store: ObjectStore, original: CommitRecord, shard: Shard) -> None:
    objects = []
    for entry in original.objects:
        path = entry.path.replace(original.shard_id, shard.shard_id)
        os.link(store.full(entry.path), store.full(path))
        objects.append(entry.model_copy(update={"path": path}))
    own = {"shard_id": shard.shard_id, "input": input_identity(shard), "objects": tuple(objects)}
    publish(store, original.model_copy(update=own), None)


def s3_filesystem(environment: dict[str, str]) -> pafs.S3FileSystem:
    """Return Arrow's client of the S3 server that the variables describe."""
    endpoint = urlsplit(environment["AWS_ENDPOINT_URL_S3"])
    return pafs.S3FileSystem(
        access_key=environment["AWS_ACCESS_KEY_ID"],
        secret_key=environment["AWS_SECRET_ACCESS_KEY"],
        region=environment["AWS_DEFAULT_REGION"],
        scheme=endpoint.scheme,
        endpoint_override=endpoint.netloc,
    )


def copy_output(folder: Path, to: str, environment: dict[str, str]) -> None:
    """Copy a local output to a bucket, much faster than committing it there.

    Args:
        folder: The local output.
        to: Bucket and prefix.
        environment: The variables that describe the S3 server.
    """
    copy = partial(pafs.copy_files, destination_filesystem=s3_filesystem(environment))
    # The index holds etags of the local files.
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            copy(str(path), f"{to}/{path.name}")
    run = json.loads((folder / "run.json").read_bytes())
    run["config"]["output"]["uri"] = f"s3://{to}"
    with s3_filesystem(environment).open_output_stream(f"{to}/run.json") as stream:
        stream.write(json.dumps(run).encode())
