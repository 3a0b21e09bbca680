"""`shopframe evaluate`: measure the committed output against a ground-truth table or its own corrections."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from actors.errors import ConfigError
from jobs import command


def evaluate(
    truth: Annotated[
        str,
        typer.Option(
            "--truth",
            help="Ground truth: Parquet with one row per person, or `corrections` for the output's own "
            "decisions about persons drawn at random.",
        ),
    ],
    output: command.Output = None,
    report: Annotated[
        str | None,
        typer.Option("--report", help="Where the evaluation is written, by default <output>/evaluation."),
    ] = None,
    complete: Annotated[
        bool, typer.Option("--complete", help="Treat frames that the ground truth does not name as empty.")
    ] = False,
    width: Annotated[
        float,
        typer.Option(
            "--width",
            min=0.001,
            max=0.999,
            help="With corrections: wished width of the intervals, for how many more decisions they need.",
        ),
    ] = 0.05,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            help="With corrections: fit a calibration to them, which the next consolidation applies.",
        ),
    ] = False,
    share: Annotated[
        str | None,
        typer.Option(
            "--share",
            help="With corrections: estimate the share of a value, such as gender=female, and nothing else.",
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", help="With --share: a condition, such as camera=till. Repeatable."),
    ] = None,
    config: command.Config = None,
    overrides: command.Set = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure the committed output against a ground-truth table, or against its own corrections."""
    from rich.console import Console

    from actors.storage import layout
    from actors.storage.object_store import ObjectStore
    from jobs.evaluation.against_corrections import CORRECTIONS, measure_by_corrections
    from jobs.evaluation.gold_terminal import print_gold, share_in_words
    from jobs.evaluation.measures import measure
    from jobs.evaluation.share_of_output import share_in
    from jobs.evaluation.terminal import print_evaluation

    store = command.output_of(command.load(config, overrides, output=output))
    place = ObjectStore(report or f"{store.uri}/{layout.EVALUATION}", store.settings)
    if truth == CORRECTIONS:
        if complete:
            raise ConfigError("--complete is about the frames of a ground-truth table; leave it out")
        if share is not None:
            estimate = share_in(store, share, where or ())
            typer.echo(json.dumps(estimate.as_dict(), indent=2) if as_json else share_in_words(estimate))
            return
        gold, files = measure_by_corrections(store, place, width, calibrate)
        if as_json:
            typer.echo(json.dumps(gold.as_dict(), indent=2))
        else:
            print_gold(Console(), gold, files)
        return
    if calibrate or share:
        option = "--calibrate" if calibrate else "--share"
        raise ConfigError(f"{option} rests on the output's own decisions; pass --truth corrections")
    found, files = measure(store, truth, place, complete)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2))
    else:
        print_evaluation(Console(), found, files)


if __name__ == "__main__":
    command.run(evaluate)
