"""`shopframe report`: write one HTML file that shows the output to somebody who wasn't there."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs import command

_SHARDS_SHOWN = 5


def report(
    output: command.Output = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", help="The file: a path, s3://... or any fsspec URL. By default report.html in the output."
        ),
    ] = None,
    persons: Annotated[
        int,
        typer.Option(
            "--persons",
            min=0,
            help="Maximum number of persons in the gallery. Above 2,000, the pictures are in a folder beside "
            "the file.",
        ),
    ] = 2000,
    config: command.Config = None,
    overrides: command.Set = None,
) -> None:
    """Write one HTML file that shows the output to somebody who wasn't there."""
    from actors.storage import layout
    from actors.storage.object_store import ObjectStore
    from actors.storage.uris import absolute_uri
    from jobs.reporting.building import build_report
    from jobs.run.words import counted

    store = command.output_of(command.load(config, overrides, output=output))
    folder, name = store, layout.REPORT
    if to is not None:
        folder, name = ObjectStore(absolute_uri(to), store.settings).parent()
    built = build_report(store, folder, name, persons)
    for shard_id, trouble in list(built.missing.items())[:_SHARDS_SHOWN]:
        typer.echo(f"shard {shard_id}: pictures are missing or from kept crops: {trouble}", err=True)
    if len(built.missing) > _SHARDS_SHOWN:
        typer.echo(f"and pictures of {len(built.missing) - _SHARDS_SHOWN:,} other shards", err=True)
    beside = "" if built.folder is None else f", in the folder {built.folder} beside it"
    typer.echo(
        f"{built.uri}: {built.size_bytes / 1e6:.1f} MB, {counted(built.persons, 'person')} in the gallery, "
        f"{counted(built.pictures, 'picture')}{beside}"
    )


if __name__ == "__main__":
    command.run(report)
