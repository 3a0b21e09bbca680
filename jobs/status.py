"""`shopframe status`: show what is done, what failed, what is pending, and what to do next."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from jobs import command


def status(
    output: command.Output = None,
    config: command.Config = None,
    overrides: command.Set = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what is done, what failed, what is pending, and what to do next."""
    from rich.console import Console

    from jobs.run.output_status import output_status
    from jobs.run.summary import print_summary

    found = output_status(command.output_of(command.load(config, overrides, output=output)))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        print_summary(Console(), found, {})


if __name__ == "__main__":
    command.run(status)
