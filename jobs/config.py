"""`shopframe config`: print every setting, validated, and where its value came from."""

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
    explain: Annotated[bool, typer.Option("--explain", help="Also what each key means.")] = False,
) -> None:
    """Print every setting, validated, and where its value came from."""
    from jobs.settings import describe

    for path, value, origin, meaning in describe(command.load(files, overrides, source, output)):
        if explain:
            typer.echo(f"# {meaning}")
        typer.echo(f"{path}: {json.dumps(value, ensure_ascii=False)}  # {origin}")


if __name__ == "__main__":
    command.run(config)
