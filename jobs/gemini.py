"""`shopframe gemini`: ask Gemini about every pending person, within the quota."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs import command, restarting


def gemini(
    output: command.Output = None,
    config: command.Config = None,
    overrides: command.Set = None,
    quota_reset: Annotated[
        bool,
        typer.Option(
            "--quota-reset",
            help="Forget first that Gemini declared today's quota spent, as after the tier was raised.",
        ),
    ] = False,
    restarts: restarting.Restarts = 0,
) -> None:
    """Ask Gemini about every pending person, within the quota."""
    if restarts:
        restarting.keep_running(restarts)
    from jobs.run.gemini_drain import drain, inherited, refuse_other_address
    from jobs.run.run_record import read_run

    run = read_run(command.output_of(command.load(config, overrides, output=output)))
    loaded = command.load(config, overrides, output=output, base=("run.json", inherited(run)))
    refuse_other_address(run, loaded)
    done = drain(loaded.settings, quota_reset=quota_reset)
    if done.stop is not None and done.stop.kind == "refused":
        raise typer.Exit(command.EXIT_CONFIG)
    raise typer.Exit(command.EXIT_SOME_FAILED if done.failed else command.EXIT_DONE)


if __name__ == "__main__":
    command.run(gemini)
