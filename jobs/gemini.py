"""`shopframe gemini`: ask Gemini about every pending person, within the quota."""

from __future__ import annotations

import typer

from jobs import command


def gemini(
    output: command.Output = None, config: command.Config = None, overrides: command.Set = None
) -> None:
    """Ask Gemini about every pending person, within the quota."""
    from jobs.run.gemini_drain import drain
    from jobs.run.run_record import read_run

    run = read_run(command.output_of(command.load(config, overrides, output=output)))
    # The settings of the last run apply, so that a forgotten --config doesn't send every person again. Ray
    # and storage settings depend on the machine, so they are not taken from the last run.
    earlier = {key: value for key, value in run.config.items() if key not in ("ray", "storage")}
    loaded = command.load(config, overrides, output=output, base=("run.json", earlier))
    done = drain(loaded.settings)
    if done.stop is not None and done.stop.kind == "refused":
        raise typer.Exit(command.EXIT_CONFIG)
    raise typer.Exit(command.EXIT_SOME_FAILED if done.failed else command.EXIT_DONE)


if __name__ == "__main__":
    command.run(gemini)
