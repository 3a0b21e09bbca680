"""`shopframe shards`: pack loose images into WebDataset shards."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs import command

_LEFT_OUT_SHOWN = 20


def shards(
    images: Annotated[str, typer.Option("--images", help="Folder or bucket prefix with the images.")],
    output: Annotated[str, typer.Option("--output", help="Where the tars are written.")],
    config: command.Config = None,
    overrides: command.Set = None,
    frames_per_shard: Annotated[int, typer.Option(min=1, help="Maximum number of images per tar.")] = 2000,
) -> None:
    """Pack loose images into WebDataset shards."""
    from jobs.run.packing import pack_images
    from jobs.run.store_probe import refuse_private

    refuse_private("--images", images)
    refuse_private("--output", output)
    storage = command.load(config, overrides).settings.storage
    done = pack_images(images, output, storage, frames_per_shard=frames_per_shard)
    typer.echo(
        f"{done.frames:,} frames in {done.shards_written + done.shards_skipped:,} shards under {output} "
        f"({done.shards_written:,} written now, {len(done.left_out):,} images left out)"
    )
    for path, reason in done.left_out[:_LEFT_OUT_SHOWN]:
        typer.echo(f"left out: {path}: {reason}")


if __name__ == "__main__":
    command.run(shards)
