"""The `shopframe` command. Each subcommand is imported only when it is called."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Annotated

import typer

from jobs import command


@dataclass(frozen=True, slots=True)
class Entry:
    """One subcommand: its name, one line of help, and the module whose function of this name runs it."""

    name: str
    help: str
    module: str


COMMANDS = (
    Entry("annotate", "Find and annotate the people in every shard that is not done yet.", "jobs.annotate"),
    Entry("gemini", "Ask Gemini about every pending person, within the quota.", "jobs.gemini"),
    Entry("status", "Show what is done, what failed, what is pending, and what to do next.", "jobs.status"),
    Entry(
        "consolidate", "Bring the consolidated tables up to date with the commit records.", "jobs.consolidate"
    ),
    Entry("report", "Write one HTML file that shows the output to somebody who wasn't there.", "jobs.report"),
    Entry("review", "Export persons to a tool for corrections, and import what was decided.", "jobs.review"),
    Entry("serve", "Look at persons and correct them, on a local page.", "jobs.serve"),
    Entry("export", "Write a data set to train on, from the final values.", "jobs.export"),
    Entry("verify", "Check that the output is what its commit records say.", "jobs.verify"),
    Entry("clean", "Delete what no commit record names and no running command may need.", "jobs.clean"),
    Entry("erase", "Remove persons from everything that the output holds.", "jobs.erase"),
    Entry("analyze", "Say how many people were where, and when.", "jobs.analyze"),
    Entry(
        "evaluate",
        "Measure the committed output against a ground-truth table, or against its own corrections.",
        "jobs.evaluate",
    ),
    Entry("shards", "Pack loose images, or frames of videos, into WebDataset shards.", "jobs.shards"),
    Entry("config", "Validate the settings and print each one with its source.", "jobs.config"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a subcommand and end the process with its exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    called = given[0] if given else ""
    app = command.new_app()
    app.callback(help="Annotate every person in archived store-camera frames.")(_options)
    for entry in COMMANDS:
        app.command(entry.name, help=entry.help)(_load(entry) if entry.name == called else _nothing)
    command.run_app(app, given)


def _load(entry: Entry) -> Callable[..., None]:
    function: Callable[..., None] = getattr(import_module(entry.module), entry.name)
    return function


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"shopframe {metadata.version('shopframe')}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Take the options that stand before the name of a command."""


def _nothing() -> None:
    """Do nothing. This stands in for subcommands that were not called, so that `--help` lists them."""


if __name__ == "__main__":
    main()
