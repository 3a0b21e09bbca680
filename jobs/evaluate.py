"""`shopframe evaluate`: measure the committed output against a ground-truth table."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from jobs import command


def evaluate(
    truth: Annotated[str, typer.Option("--truth", help="Ground truth: Parquet with one row per person.")],
    output: command.Output = None,
    report: Annotated[
        str | None,
        typer.Option("--report", help="Where the evaluation is written, by default <output>/evaluation."),
    ] = None,
    complete: Annotated[
        bool, typer.Option("--complete", help="Treat frames that the ground truth does not name as empty.")
    ] = False,
    config: command.Config = None,
    overrides: command.Set = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure the committed output against a ground-truth table."""
    from rich.console import Console

    from actors.storage import layout
    from actors.storage.object_store import ObjectStore
    from jobs.evaluation.measures import measure
    from jobs.evaluation.terminal import print_evaluation

    store = command.output_of(command.load(config, overrides, output=output))
    place = ObjectStore(report or f"{store.uri}/{layout.EVALUATION}", store.settings)
    found, files = measure(store, truth, place, complete)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2))
    else:
        print_evaluation(Console(), found, files)


if __name__ == "__main__":
    command.run(evaluate)
