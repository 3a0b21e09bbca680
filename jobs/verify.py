"""`shopframe verify`: check that the output is what its commit records say."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import command

if TYPE_CHECKING:
    from jobs.run.verification import Verification

_SAY_EVERY_S = 10.0


def verify(
    output: command.Output = None,
    config: command.Config = None,
    overrides: command.Set = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Look only at names and sizes, without reading contents.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check that the output is what its commit records say."""
    from jobs.run.run_record import read_run
    from jobs.run.verification import Verification

    store = command.output_of(command.load(config, overrides, output=output))
    # Without it, this is no output, and nothing would be found wrong with it.
    read_run(store)
    verification = Verification(store, quick)
    verification.after_shard = _Progress(verification).after_shard
    (_print_json if as_json else _print_lines)(verification)
    raise typer.Exit(command.EXIT_DAMAGED if verification.problems else command.EXIT_DONE)


class _Progress:
    """Says on standard error at most every ten seconds how far the check is."""

    def __init__(self, verification: Verification) -> None:
        self._verification = verification
        self._said_at = time.monotonic()

    def after_shard(self) -> None:
        if time.monotonic() - self._said_at >= _SAY_EVERY_S:
            self._said_at = time.monotonic()
            typer.echo(f"{self._verification.shards:,} shards checked so far", err=True)


def _print_lines(verification: Verification) -> None:
    from jobs.run.words import counted

    for found in verification.run():
        typer.echo(f"{found.object} {found.problem}" + (f" (shard {found.shard})" if found.shard else ""))
        typer.echo(f"  {found.remedy}")
    checked = f"{counted(verification.shards, 'shard')} with {counted(verification.objects, 'object')}"
    how = " by name and size" if verification.quick else ""
    wrong = counted(verification.problems, "problem") if verification.problems else "nothing is wrong"
    typer.echo(f"checked {checked}{how}: {wrong}")


def _print_json(verification: Verification) -> None:
    # The problems are printed as they are found, because there can be many.
    typer.echo(f'{{"output": {json.dumps(verification.store.uri)}, "problems": [', nl=False)
    for number, found in enumerate(verification.run()):
        typer.echo(("," if number else "") + f"\n  {json.dumps(asdict(found))}", nl=False)
    counts = {"quick": verification.quick, "shards": verification.shards, "objects": verification.objects}
    typer.echo(f"\n], {json.dumps(counts)[1:-1]}}}")


if __name__ == "__main__":
    command.run(verify)
