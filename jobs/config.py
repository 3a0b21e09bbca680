"""`shopframe config`: validate the settings and print each one with its source."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from jobs import command


def config(
    files: command.Config = None,
    overrides: command.Set = None,
    source: command.Input = None,
    output: command.Output = None,
    explain: Annotated[bool, typer.Option("--explain", help="Also print what each key means.")] = False,
) -> None:
    """Validate the settings and print each one with its source."""
    from jobs.settings import describe

    for path, value, origin, meaning in describe(command.load(files, overrides, source, output)):
        if explain:
            typer.echo(f"# {meaning}")
        typer.echo(f"{path}: {json.dumps(value, ensure_ascii=False)}  # {origin}")


if __name__ == "__main__":
    command.run(config)
