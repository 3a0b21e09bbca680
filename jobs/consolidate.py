"""`shopframe consolidate`: bring consolidated/ up to date with the commit records."""

from __future__ import annotations

import typer

from jobs import command


def consolidate(
    output: command.Output = None, config: command.Config = None, overrides: command.Set = None
) -> None:
    """Bring consolidated/ up to date with the commit records."""
    from actors.attributes import AttributeSchema, SchemaSettings
    from jobs.run.consolidation import consolidate_output
    from jobs.run.run_record import read_run

    store = command.output_of(command.load(config, overrides, output=output))
    done = consolidate_output(store, AttributeSchema(read_run(store).section("schema", SchemaSettings)))
    typer.echo(
        f"{done.persons:,} persons from {done.shards:,} shards in {done.files:,} files under "
        f"{store.uri}/consolidated ({done.written:,} written now)"
    )


if __name__ == "__main__":
    command.run(consolidate)
