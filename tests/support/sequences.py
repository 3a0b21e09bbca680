"""Detected shards of the demo's sequences, in which the same people are seen again and again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from actors.attributes import AttributeSchema
from actors.commit.committer import Committer
from actors.commit.settings import OutputSettings
from actors.detect.crops import CropSettings, cut_person
from actors.fingerprint import crop_sha256
from actors.gemini.settings import resolve_gemini
from actors.records import FRAMES_SCHEMA, PERSONS_SCHEMA, Shard
from actors.shard_block import ShardBlock, ShardTask
from actors.storage.object_store import ObjectStore
from demo.scenes import Scene, generate_sequences
from jobs.run.run_record import GeminiModel, Models, PlanCounts, RunRecord, write_run
from jobs.settings import Settings


@dataclass(frozen=True)
class Seen:
    """A detected shard, and the ids of the true people, in the order of its persons."""

    block: ShardBlock
    tracks: list[str]

    @property
    def crops(self) -> list[bytes]:
        return self.block.kept_persons()["crop"].to_pylist()


def sequences(frames: int, seed: int = 5, knows: str = "camera captured_at", shard_id: str = "s") -> Seen:
    """Return the true people of some sequences as the detector would find them.

    Args:
        frames: Number of frames. Twelve are one sequence of a camera.
        seed: Seed of the people.
        knows: What the frames name.
        shard_id: Id of the shard.
    """
    return block_of(list(generate_sequences(seed, frames)), knows, shard_id)


def block_of(scenes: list[Scene], knows: str = "camera captured_at", shard_id: str = "s") -> Seen:
    """Return a detected shard with these scenes."""
    frame_rows, rows, tracks = [], [], []
    for scene in sorted(scenes, key=lambda scene: scene.key):
        height, width = scene.image.shape[:2]
        row = {"shard_id": shard_id, "frame_key": scene.key, "width": width, "height": height, "status": "ok"}
        row |= {name: getattr(scene, name) for name in knows.split()}
        frame_rows.append(row | {"detected": len(scene.persons), "kept": len(scene.persons)})
        for index, person in enumerate(scene.persons):
            crop = cut_person(scene.image, person.bbox, CropSettings())
            tracks.append(person.track_id)
            rows.append(
                {
                    "shard_id": shard_id,
                    "frame_key": scene.key,
                    "person_index": index,
                    "bbox": np.array(person.bbox, np.float32),
                    "score": 0.9,
                    "kept": True,
                    "crop": crop,
                    "crop_sha256": crop_sha256(crop),
                }
            )
    block = ShardBlock(
        ShardTask(Shard(shard_id, f"in/{shard_id}.tar", "webdataset", "etag", 10), "detect"),
        pa.Table.from_pylist(frame_rows, FRAMES_SCHEMA),
        pa.Table.from_pylist(rows, PERSONS_SCHEMA),
    )
    return Seen(block, tracks)


def commit_for_gemini(output: Path, shards: Sequence[Seen], settings: Settings) -> None:
    """Commit shards whose persons wait for Gemini, as a run with these settings does."""
    schema = AttributeSchema(settings.attributes)
    resolved = resolve_gemini(settings.gemini, schema, (), settings.annotate)
    stages = {"detect": "d", "person_json": "p", "gemini": resolved.stage_fingerprint}
    store = ObjectStore(str(output))
    models = Models(
        gemini=GeminiModel(model=resolved.model, prompt_sha256=resolved.prompt_sha256, key_id="k")
    )
    config = settings.as_dict()
    plan = PlanCounts(shards=len(shards))
    write_run(store, RunRecord(config=config, fingerprints=stages, plan=plan, models=models))
    committer = Committer(store, OutputSettings(keep_crops="always"), schema, stages, (resolved.pending,))
    for seen in shards:
        committer.commit(seen.block)
