"""`shopframe shards`: pack loose images, or frames of videos, into WebDataset shards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from actors.errors import ConfigError
from jobs import command
from jobs.run.words import counted

if TYPE_CHECKING:
    from jobs.run.cutting import CutSummary
    from jobs.run.packing import PackSummary

_NAMED = 20
_EVERY_S = 5.0


def shards(
    output: Annotated[str, typer.Option("--output", help="Where the tars are written.")],
    images: Annotated[
        str | None, typer.Option("--images", help="Folder or bucket prefix with loose images to pack.")
    ] = None,
    videos: Annotated[
        str | None, typer.Option("--videos", help="Folder, bucket prefix or file of videos to cut.")
    ] = None,
    every: Annotated[
        float | None,
        typer.Option(
            "--every", min=0.001, help=f"Seconds between two frames of a video. By default {_EVERY_S:g}."
        ),
    ] = None,
    scene_change: Annotated[
        float | None,
        typer.Option(
            "--scene-change",
            min=0,
            max=1,
            help="Take the frames of a video that differ from the one before by more than this, such as 0.1.",
        ),
    ] = None,
    config: command.Config = None,
    overrides: command.Set = None,
    frames_per_shard: Annotated[int, typer.Option(min=1, help="Maximum number of images per tar.")] = 2000,
) -> None:
    """Pack loose images, or frames of videos, into WebDataset shards."""
    from jobs.run.cutting import Picking, cut_videos
    from jobs.run.packing import pack_images
    from jobs.run.store_probe import refuse_private

    if (images is None) == (videos is None):
        raise ConfigError("pass either --images or --videos, with the folder to make shards of")
    if images is not None and (every is not None or scene_change is not None):
        raise ConfigError("--every and --scene-change choose frames of videos; leave them out with --images")
    if every is not None and scene_change is not None:
        raise ConfigError("--every and --scene-change exclude each other; pass one of them")
    refuse_private("--output", output)
    settings = command.load(config, overrides).settings
    if images is not None:
        refuse_private("--images", images)
        _say_packed(pack_images(images, output, settings.storage, frames_per_shard=frames_per_shard), output)
        return
    refuse_private("--videos", str(videos))
    done = cut_videos(
        str(videos),
        output,
        settings.input,
        settings.storage,
        Picking(every or _EVERY_S, scene_change),
        frames_per_shard=frames_per_shard,
        report=lambda cut: typer.echo(f"{cut.video}: {counted(cut.frames, 'frame')}", err=True),
    )
    _say_cut(done, output)
    raise typer.Exit(command.EXIT_SOME_FAILED if done.broken else command.EXIT_DONE)


def _say_packed(done: PackSummary, output: str) -> None:
    typer.echo(
        f"{counted(done.frames, 'frame')} in {counted(done.shards_written + done.shards_skipped, 'shard')} "
        f"under {output} ({done.shards_written:,} written now, {counted(len(done.left_out), 'image')} left "
        "out)"
    )
    for path, reason in done.left_out[:_NAMED]:
        typer.echo(f"left out: {path}: {reason}")


def _say_cut(done: CutSummary, output: str) -> None:
    typer.echo(
        f"{counted(done.frames, 'frame')} of {counted(done.videos_cut + done.videos_skipped, 'video')} in "
        f"{counted(done.tars, 'shard')} under {output} ({counted(done.videos_cut, 'video')} cut now, "
        f"{len(done.broken):,} broken)"
    )
    if done.without_camera or done.without_time:
        typer.echo(
            f"{counted(done.without_camera, 'video')} without a camera and {done.without_time:,} without a "
            "start time, by their tags and input.key_pattern; if their paths name them, set "
            "input.key_pattern and run the command again"
        )
    for path, reason in done.broken[:_NAMED]:
        typer.echo(f"broken: {path}: {reason}")


if __name__ == "__main__":
    command.run(shards)
