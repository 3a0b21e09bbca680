"""`shopframe annotate --dry-run`: the ROI and its verdicts, drawn before a long run."""

from __future__ import annotations

from itertools import islice

from actors.detect_shard import ShardDetector
from actors.detector import ResolvedDetector
from actors.errors import FrameError, ShardError
from actors.frame_decoder import decode_frame
from actors.previews import DrawnPerson, draw_persons, draw_zones
from actors.shard_block import ShardBlock, ShardTask
from actors.shard_listing import list_shards
from actors.storage import layout
from actors.storage.object_store import ObjectStore
from jobs.settings import Settings

_SHARDS = 4


def draw_roi(settings: Settings, resolved: ResolvedDetector, output: ObjectStore) -> list[str]:
    """Detect a few shards here, without Ray, and draw zones, kept people and dropped ones with reasons.

    Args:
        settings: `output.previews` is the number of frames, 12 if it is 0.
        resolved: The detector.
        output: Gets `previews/dry-run/`; nothing is committed.

    Returns:
        Paths of the pictures in the output.

    Raises:
        ShardError: None of the shards looked at could be read.
    """
    wanted = settings.output.previews or 12
    detector = ShardDetector(
        input=settings.input,
        storage=settings.storage,
        detector=settings.detector,
        resolved=resolved,
        roi=settings.roi,
        crops=settings.crops,
        max_failed_frames=1,
    )
    drawn: list[str] = []
    trouble: ShardError | None = None
    for shard in islice(list_shards(settings.input, settings.storage), _SHARDS):
        block = ShardBlock(ShardTask(shard, "detect", previews=-(-wanted // _SHARDS)))
        try:
            detector.detect(block)
        except ShardError as error:
            trouble = error
            continue
        drawn += _draw(block, settings, output)
    if not drawn and trouble is not None:
        raise trouble
    return drawn


def _draw(block: ShardBlock, settings: Settings, output: ObjectStore) -> list[str]:
    if block.frames is None or block.persons is None:
        return []
    cameras = {row["frame_key"]: row["camera"] for row in block.frames.to_pylist()}
    persons = block.persons.drop_columns(["crop"]).to_pylist()
    drawn = []
    for key, data in block.previews.items():
        try:
            image = decode_frame(data, settings.input.max_image_pixels)
        except FrameError:
            continue
        shown = [
            DrawnPerson(p["bbox"], f"kept {p['score']:.2f}", p["drop_reason"])
            for p in persons
            if p["frame_key"] == key
        ]
        picture = draw_zones(image, settings.roi, cameras[key])
        path = layout.dry_run_path(block.task.shard.shard_id, key)
        output.write(path, draw_persons(picture, shown, settings.output.preview_max_side_px))
        drawn.append(path)
    return drawn
