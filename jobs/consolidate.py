"""`shopframe consolidate`: bring the consolidated tables up to date with the commit records."""

from __future__ import annotations

import typer

from jobs import command


def consolidate(
    output: command.Output = None, config: command.Config = None, overrides: command.Set = None
) -> None:
    """Bring the consolidated tables up to date with the commit records."""
    from actors.attributes import AttributeSchema
    from actors.storage import layout
    from jobs.run.consolidation import consolidate_output
    from jobs.run.words import counted

    loaded = command.load_as_last_run(config, overrides, output)
    store, settings = command.output_of(loaded), loaded.settings
    schema = AttributeSchema(settings.attributes)
    done = consolidate_output(store, schema, settings.consensus, settings.output.keep_versions_days)
    typer.echo(
        f"{counted(done.persons, 'person')} under {store.uri}/{layout.CONSOLIDATED} and "
        f"{counted(done.frames, 'frame')} under {store.uri}/{layout.CONSOLIDATED_FRAMES}, from "
        f"{counted(done.shards, 'shard')} in {counted(done.files, 'file')} ({done.written:,} written now)"
    )
    typer.echo(done.weighing)
    for line in done.warnings():
        typer.echo(line, err=True)
    raise typer.Exit(command.EXIT_SOME_FAILED if done.incomplete else command.EXIT_DONE)


if __name__ == "__main__":
    command.run(consolidate)
