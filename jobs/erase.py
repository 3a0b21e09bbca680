"""`shopframe erase`: remove persons from everything that the output holds."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from actors.errors import ConfigError
from jobs import command

if TYPE_CHECKING:
    from jobs.erasing.selection import Selection


def erase(
    output: command.Output = None,
    config: command.Config = None,
    overrides: command.Set = None,
    person: Annotated[
        str | None,
        typer.Option("--person", help="One person: SHARD/FRAME/NUMBER, as in the path of its document."),
    ] = None,
    frame: Annotated[
        str | None, typer.Option("--frame", help="All persons of a frame: its key, or SHARD/KEY.")
    ] = None,
    camera: Annotated[
        str | None, typer.Option("--camera", help="All persons of the frames of a camera that are there now.")
    ] = None,
    before: Annotated[
        str | None,
        typer.Option(
            "--before",
            help="All persons of frames before a time, such as 2026-01-31 or 2026-01-31T18:00+01:00; UTC "
            "without an offset.",
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Erase them. Without it, only what would go is said.")
    ] = False,
    cache: Annotated[
        Path, typer.Option("--cache", help="The --cache of shopframe serve on this machine, which goes too.")
    ] = command.CACHE,
) -> None:
    """Remove persons from everything that the output holds."""
    from actors.attributes import AttributeSchema
    from jobs.erasing.erasing import Eraser
    from jobs.erasing.words import CACHED, commands_after, lines_of
    from jobs.run.local_copies import count_copies, delete_copies

    selection = _selection({"person": person, "frame": frame, "camera": camera, "before": before})
    loaded = command.load_as_last_run(config, overrides, output)
    settings = loaded.settings
    eraser = Eraser(command.output_of(loaded), AttributeSchema(settings.attributes), settings.consensus)
    done = eraser.erase(selection) if yes else eraser.look(selection)
    of_copies = delete_copies if yes else count_copies
    done.counts[CACHED] = of_copies(eraser.store, cache.expanduser())
    typer.echo("\n".join(lines_of(done, erased=yes)))
    if yes:
        for line in commands_after(done, eraser.store.uri):
            typer.echo(line)


def _selection(given: dict[str, str | None]) -> Selection:
    from jobs.erasing.selection import Selection

    named = {name: value for name, value in given.items() if value is not None}
    if len(named) != 1:
        raise ConfigError("pass one of --person, --frame, --camera and --before")
    if named.get("person") is not None:
        return Selection("person", named["person"])
    if named.get("frame") is not None:
        return Selection("frame", named["frame"])
    if named.get("camera") is not None:
        return Selection("camera", named["camera"])
    return Selection("before", before=_time(named["before"]))


def _time(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(
            f"--before {text}: not a time such as 2026-01-31 or 2026-01-31T18:00+01:00"
        ) from error
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


if __name__ == "__main__":
    command.run(erase)
