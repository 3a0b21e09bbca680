"""`shopframe status`: show what is done, what failed, what is pending, and what to do next."""

from __future__ import annotations

import json
from functools import partial
from typing import Annotated

import typer

from actors.errors import ConfigError
from jobs import command


def status(
    output: command.Output = None,
    config: command.Config = None,
    overrides: command.Set = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again until all is done.")] = False,
    every_s: Annotated[
        float, typer.Option("--every", min=1, help="Seconds between two looks of --watch.")
    ] = 10.0,
) -> None:
    """Show what is done, what failed, what is pending, and what to do next."""
    if as_json and watch:
        raise ConfigError("--json and --watch exclude each other; pass one of them")
    from rich.console import Console

    from jobs.run.output_status import output_status
    from jobs.run.run_record import read_run
    from jobs.run.summary import print_summary

    store = command.output_of(command.load(config, overrides, output=output))
    # Settings of Gemini that are given now show what a run with them would do.
    last = {"gemini": read_run(store).config.get("gemini", {})}
    settings = command.load(config, overrides, output=output, base=("run.json", last)).settings
    if watch:
        from jobs.run.live_status import watch_status

        watch_status(Console(), partial(output_status, store, gemini=settings.gemini), every_s)
        return
    found = output_status(store, gemini=settings.gemini)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        print_summary(Console(), found, {})


if __name__ == "__main__":
    command.run(status)
