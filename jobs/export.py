"""`shopframe export`: write a data set to train on."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import command

if TYPE_CHECKING:
    from jobs.dataset.exporting import Exported


class Format(StrEnum):
    """The layout of the data set."""

    YOLO = "yolo"
    COCO = "coco"
    HF = "hf"
    WEBDATASET = "webdataset"


class Period(StrEnum):
    """How long what one camera took stays in one split."""

    DAY = "day"
    HOUR = "hour"
    MINUTE = "minute"


def export(
    kind: Annotated[
        Format,
        typer.Option(
            "--format",
            help="yolo and coco are frames with boxes, hf (Parquet for Hugging Face datasets) and webdataset "
            "are crops with attributes.",
        ),
    ],
    to: Annotated[
        str, typer.Option("--to", help="Where to write: an empty folder, s3://... or any fsspec URL.")
    ],
    output: command.Output = None,
    select: Annotated[
        list[str] | None,
        typer.Option(
            "--select",
            help="A condition on a column of the consolidated table, such as gender_source=human, "
            "camera=till or gender_confidence>0.9. Repeatable: all must hold.",
        ),
    ] = None,
    splits: Annotated[
        str,
        typer.Option("--splits", help="The share of each split of train, val and test, scaled to 1."),
    ] = "train=0.8,val=0.1,test=0.1",
    period: Annotated[
        Period,
        typer.Option("--split-by", help="What one camera took within this period stays in one split."),
    ] = Period.DAY,
    seed: Annotated[int, typer.Option("--seed", help="Another number gives other splits.")] = 0,
    config: command.Config = None,
    overrides: command.Set = None,
) -> None:
    """Write a data set to train on, from the final values."""
    from actors.storage.object_store import ObjectStore
    from actors.storage.uris import absolute_uri
    from jobs.dataset.exporting import export_dataset
    from jobs.dataset.splits import parse_shares

    shares = parse_shares(splits)
    store = command.output_of(command.load(config, overrides, output=output))
    folder = ObjectStore(absolute_uri(to), store.settings)
    done = export_dataset(store, folder, kind.value, select or [], shares, period.value, seed)
    _say(done, folder.uri, period)
    raise typer.Exit(command.EXIT_SOME_FAILED if done.missing else command.EXIT_DONE)


def _say(done: Exported, uri: str, period: Period) -> None:
    from jobs.run.words import counted

    for name, split in done.facts["splits"].items():
        typer.echo(
            f"{name}: {counted(split['persons'], 'person')} in {counted(split['frames'], 'frame')} of "
            f"{counted(split['groups'], 'group')} (a camera's {period})"
        )
    for name in done.empty:
        remedy = "" if period is Period.MINUTE else ": a shorter --split-by makes more groups"
        typer.echo(f"{name} is empty, because there are too few groups{remedy}", err=True)
    for shard_id, trouble in list(done.missing.items())[:5]:
        typer.echo(f"shard {shard_id}: frames are left out: {trouble}", err=True)
    if len(done.missing) > 5:
        typer.echo(f"and frames of {len(done.missing) - 5:,} other shards", err=True)
    typer.echo(f"{uri}: README.md says what is in it and what made its labels")


if __name__ == "__main__":
    command.run(export)
