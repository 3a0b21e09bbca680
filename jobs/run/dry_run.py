"""`shopframe annotate --dry-run`: say what a run would do, and draw the ROI and its decisions on a sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console

from actors.commit.previews import DrawnPerson, draw_persons, draw_zones
from actors.detect.settings import ResolvedDetector
from actors.detect.shard_detector import ShardDetector
from actors.erasure.left_out import leave_out, read_left_out
from actors.errors import FrameError, ShardError, ShardUnavailableError, StoreError
from actors.read.frame_decoder import decode_frame
from actors.records import Shard
from actors.reuse.groups import find_groups
from actors.reuse.settings import ReuseSettings
from actors.shard_block import ShardBlock, ShardTask
from actors.storage import layout
from actors.storage.object_store import ObjectStore
from jobs.run.cameras import absent_cameras
from jobs.run.key_sample import key_lines, refuse_pattern_without_match, sample_keys
from jobs.run.plan import Scope
from jobs.run.prepare import check_input, check_places, prepare_run
from jobs.run.run_log import log, run_log, warn
from jobs.run.words import counted
from jobs.settings import LoadedSettings, Settings

_SHARDS = 4
_REUSE_S = 10.0
"""Time for which reuse is estimated where it is off."""


@dataclass(slots=True)
class DryRun:
    """The result of a dry run on a sample of the input.

    Attributes:
        pictures: Paths of the drawn frames in the output.
        shards: Number of shards in the sample. Each is processed completely.
        kept: Number of persons in these shards that the ROI keeps.
        dropped: Number of persons in these shards that the ROI drops, by reason.
        cameras: Cameras of the frames in these shards.
        questions: Number of questions about these persons to an annotator if answers are shared.
        timed: Number of frames in these shards that name their camera and their time.
    """

    pictures: list[str] = field(default_factory=list)
    shards: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    cameras: set[str] = field(default_factory=set)
    questions: int = 0
    timed: int = 0

    def lines(self, settings: Settings) -> list[str]:
        """Return the lines that are printed for the user."""
        dropped = ", ".join(f"{reason} {n:,}" for reason, n in sorted(self.dropped.items()))
        gone = self.dropped.total()
        said = [
            f"drew the ROI and its decisions on {counted(len(self.pictures), 'frame')} of "
            f"{counted(self.shards, 'shard')}; in all frames of the sample there are "
            f"{counted(self.kept + gone, 'person')} = "
            f"{self.kept:,} kept + {gone:,} dropped" + (f" ({dropped})" if dropped else "")
        ]
        said += [self._reuse_line(settings.annotate)] if self.kept else []
        return said + [
            f"{setting}: no frame of these shards is of camera {', '.join(missing)}, so it has no effect here"
            for setting, missing in absent_cameras(settings.roi, settings.gemini.cameras, self.cameras)
        ]

    def _reuse_line(self, reuse: ReuseSettings) -> str:
        """Return how many questions the reuse of answers saves, or would save."""
        if not self.timed:
            return "annotate.reuse: no frame of these shards names camera and time, so it would save nothing"
        saves = "saves" if reuse.is_on else f"={_reuse_s(reuse):g} would save"
        saved = self.kept - self.questions
        return (
            f"annotate.reuse{'' if saves[0] == '=' else ' '}{saves} {counted(saved, 'question')} of "
            f"{self.kept:,} about these persons ({self.kept / self.questions:.1f} times fewer); an inherited "
            "answer is that about another crop of the same person"
        )


def _reuse_s(reuse: ReuseSettings) -> float:
    return reuse.reuse or _REUSE_S


def dry_run(loaded: LoadedSettings, scope: Scope, annotator: str | None, run_id: str) -> None:
    """Print what is read from ten keys, what a run would do and why, and what the ROI decides on a sample.

    The ROI is also drawn on this sample of the input.

    Args:
        loaded: The settings.
        scope: Which shards the run would do again.
        annotator: The annotator that the run would ask again, with scope "annotator".
        run_id: Id of the dry run, for its log.

    Raises:
        ConfigError: If settings, models, input or output can't be used.
        ShardError: If none of the sampled shards could be read.
    """
    settings = loaded.settings
    output, warning = check_places(loaded)
    with run_log(output, run_id) as opened:
        terminal = opened.terminal
        warn(warning, terminal)
        log.info("dry run", extra={"input": settings.input.uri})
        found = check_input(loaded, output, annotator, terminal)
        settings = found.settings
        keys = sample_keys(found.shards, settings.input, settings.storage)
        _print(key_lines(keys, settings.input))
        refuse_pattern_without_match(keys, settings.input)
        prepared = prepare_run(found, output, scope, annotator)
        tried = draw_roi(settings, found.resolved.detector, output, found.shards)
    pictures = [output.uri_of(path) for path in tried.pictures]
    said = [*prepared.reasons.lines(), *pictures, *tried.lines(settings)]
    _print(said)


def _print(lines: Sequence[str]) -> None:
    Console().print("\n".join(lines), soft_wrap=True, markup=False, highlight=False)


def draw_roi(
    settings: Settings, resolved: ResolvedDetector, output: ObjectStore, shards: Sequence[Shard]
) -> DryRun:
    """Process a few shards without Ray, and draw zones, kept persons, and dropped persons with reasons.

    Args:
        settings: The settings. `output.previews` is the number of frames to draw; 12 are drawn if it is 0.
        resolved: The detector.
        output: The output. Pictures are written to `previews/dry-run/`, and nothing is committed.
        shards: The shards of the input.

    Raises:
        ShardError: If none of the sampled shards could be read.
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
    done = DryRun()
    trouble: str | None = None
    for shard in shards[:: -(-len(shards) // _SHARDS)]:
        block = ShardBlock(ShardTask(shard, "detect", previews=-(-wanted // _SHARDS)))
        try:
            block = leave_out(detector.detect(block), read_left_out(output, shard))
        except (ShardUnavailableError, StoreError) as error:
            trouble = str(error)
            continue
        if block.error is not None:
            trouble = block.error
            continue
        _draw(block, settings, output, done)
    if not done.pictures and trouble is not None:
        raise ShardError(trouble)
    # Those of an earlier dry run show other zones, or frames that the input no longer has.
    drawn = set(done.pictures)
    output.delete([o.path for o in output.list(layout.DRY_RUN) if o.path not in drawn])
    return done


def _draw(block: ShardBlock, settings: Settings, output: ObjectStore, done: DryRun) -> None:
    if block.frames is None or block.persons is None:
        return
    cameras = {row["frame_key"]: row["camera"] for row in block.frames.to_pylist()}
    persons = block.persons.drop_columns(["crop"]).to_pylist()
    done.shards += 1
    done.kept += sum(p["kept"] for p in persons)
    done.dropped.update(p["drop_reason"] for p in persons if not p["kept"])
    done.cameras |= {camera for camera in cameras.values() if camera is not None}
    frames = block.frames.select(["camera", "captured_at"]).to_pylist()
    done.timed += sum(row["camera"] is not None and row["captured_at"] is not None for row in frames)
    kept = block.kept_persons()
    groups = find_groups(block.frames, kept, settings.annotate, _reuse_s(settings.annotate))
    done.questions += len(groups.next_step(range(kept.num_rows), ()).asked)
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
        done.pictures.append(path)
