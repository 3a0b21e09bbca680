"""`shopframe annotate`: find and annotate the people in every shard that is not done yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from actors.errors import ConfigError
from jobs import command, restarting

if TYPE_CHECKING:
    from jobs.run.plan import Scope


def annotate(
    source: command.Input = None,
    output: command.Output = None,
    config: command.Config = None,
    overrides: command.Set = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Process only the failed shards again.")
    ] = False,
    retry_annotator: Annotated[
        str | None,
        typer.Option(
            "--retry-annotator",
            help="Only ask this annotator again, about the persons without an ok answer of its model.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Process every shard again.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only say what a run would do and why, and draw the ROI and its decisions on a sample of "
            "frames.",
        ),
    ] = False,
    restarts: restarting.Restarts = 0,
) -> None:
    """Find and annotate the people in every shard that is not done yet."""
    if sum((retry_failed, retry_annotator is not None, force)) > 1:
        raise ConfigError(
            "--retry-failed, --retry-annotator and --force exclude each other; pass one of them"
        )
    restarting.refuse_with(restarts, force=force)
    if restarts:
        restarting.keep_running(restarts)
    loaded = command.load(config, overrides, source, output)
    scope: Scope = "missing"
    if retry_failed:
        scope = "failed"
    elif retry_annotator is not None:
        scope = "annotator"
    elif force:
        scope = "force"
    from jobs.run.left_as_found import left_as_found

    with left_as_found(loaded.settings.output.uri) as run_id:
        if dry_run:
            from jobs.run.dry_run import dry_run as try_run

            try_run(loaded, scope, retry_annotator, run_id)
            return
        from jobs.run.annotation import annotate_input

        all_done = annotate_input(loaded, scope, retry_annotator, run_id)
    raise typer.Exit(command.EXIT_DONE if all_done else command.EXIT_SOME_FAILED)


if __name__ == "__main__":
    command.run(annotate)
