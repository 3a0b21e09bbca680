"""`shopframe gemini`: ask Gemini about everybody who waits, within the quota."""

from __future__ import annotations

import typer

from jobs import command


def gemini(
    output: command.Output = None, config: command.Config = None, overrides: command.Set = None
) -> None:
    """Ask Gemini about everybody who waits, within the quota."""
    from jobs.run.gemini_drain import drain
    from jobs.run.run_record import read_run

    run = read_run(command.output_of(command.load(config, overrides, output=output)))
    # The run's own settings, so that nobody is asked again for want of a --config; Ray's and the
    # store's are those of this machine.
    earlier = {key: value for key, value in run.config.items() if key not in ("ray", "storage")}
    loaded = command.load(config, overrides, output=output, base=("run.json", earlier))
    done = drain(loaded.settings)
    if done.stop is not None and done.stop.kind == "refused":
        raise typer.Exit(command.EXIT_CONFIG)
    raise typer.Exit(command.EXIT_SOME_FAILED if done.failed else command.EXIT_DONE)


if __name__ == "__main__":
    command.run(gemini)
