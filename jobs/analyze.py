"""`shopframe analyze`: how many people were where and when, from the consolidated tables."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from jobs import command


def analyze(
    output: command.Output = None,
    by: Annotated[
        str,
        typer.Option(
            "--by", help="Columns of the tables, some of camera, zone, date, weekday and hour, with commas."
        ),
    ] = "camera,hour",
    zones: Annotated[
        str | None,
        typer.Option("--zones", help="YAML file with zones, opening hours and cameras of the same place."),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option("--to", help="Folder for the tables, by default <output>/analysis."),
    ] = None,
    config: command.Config = None,
    overrides: command.Set = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say how many people were where, and when."""
    from rich.console import Console

    from actors.storage import layout
    from actors.storage.object_store import ObjectStore
    from jobs.analysis.analysing import analyse, write_analysis
    from jobs.analysis.shop import load_shop
    from jobs.analysis.terminal import print_analysis

    loaded = command.load(config, overrides, output=output)
    store = command.output_of(loaded)
    columns = [name.strip() for name in by.split(",") if name.strip()]
    found = analyse(store, load_shop(zones), loaded.settings.analyze, columns)
    files = write_analysis(found, ObjectStore(to or f"{store.uri}/{layout.ANALYSIS}", store.settings))
    if as_json:
        typer.echo(json.dumps(found.summary, indent=2))
    else:
        print_analysis(Console(), found.summary, files)


if __name__ == "__main__":
    command.run(analyze)
