"""`shopframe review`: export persons to a tool for corrections, and import what people decided."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import command

if TYPE_CHECKING:
    from actors.storage.object_store import ObjectStore


class Action(StrEnum):
    """What to do."""

    EXPORT = "export"
    IMPORT = "import"
    LOST = "lost"


class Format(StrEnum):
    """The tool."""

    VIA = "via"
    LABELSTUDIO = "labelstudio"
    CVAT = "cvat"
    COCO = "coco"


class Purpose(StrEnum):
    """How persons are chosen."""

    NEED = "need"
    AUDIT = "audit"


class Queue(StrEnum):
    """The page's queue from which persons are taken."""

    ALL = "all"
    LEAST_CERTAIN = "least_certain"
    DISAGREEING = "disagreeing"
    VIOLATIONS = "violations"
    RARE = "rare"


def review(
    action: Annotated[
        Action,
        typer.Argument(
            help="export writes files for a tool, import takes back what was changed in them, lost lists "
            "corrections that find no person in the present detections."
        ),
    ],
    output: command.Output = None,
    kind: Annotated[Format, typer.Option("--format", help="The tool.")] = Format.VIA,
    to: Annotated[str | None, typer.Option("--to", help="export: the folder for the tool's files.")] = None,
    source: Annotated[
        str | None, typer.Option("--from", help="import: the folder with the tool's saved files.")
    ] = None,
    reviewer: Annotated[str | None, typer.Option("--reviewer", help="import: who has decided.")] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(
            "--select",
            help="export: a condition on a column of the consolidated table, such as gender=unknown, "
            "camera=till or gender_confidence<0.6. Repeatable: all must hold.",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="export: at most so many persons.")
    ] = None,
    purpose: Annotated[
        Purpose,
        typer.Option("--purpose", help="export: need takes the first persons, audit draws them at random."),
    ] = Purpose.NEED,
    queue: Annotated[
        Queue,
        typer.Option(
            "--queue",
            help="export: a queue of the page, such as disagreeing: only its persons, in its order.",
        ),
    ] = Queue.ALL,
    frames_at: Annotated[
        str | None,
        typer.Option("--frames-at", help="export: URL of the frames, if the tool does not find the folder."),
    ] = None,
    config: command.Config = None,
    overrides: command.Set = None,
) -> None:
    """Export persons to a tool for corrections, and import what was decided."""
    from jobs.run.run_record import read_run

    loaded = command.load(config, overrides, output=output)
    store = command.output_of(loaded)
    read_run(store)
    if action is Action.EXPORT:
        folder = _folder("--to", to, store)
        raise typer.Exit(_export(store, folder, kind, select or [], limit, purpose, queue, frames_at))
    if action is Action.IMPORT:
        folder = _folder("--from", source, store)
        raise typer.Exit(_import(store, folder, _named(reviewer)))
    raise typer.Exit(_lost(store))


def _folder(option: str, uri: str | None, store: ObjectStore) -> ObjectStore:
    from actors.errors import ConfigError
    from actors.storage.object_store import ObjectStore
    from actors.storage.uris import absolute_uri

    if not uri:
        raise ConfigError(f"{option}: missing; name a folder")
    return ObjectStore(absolute_uri(uri), store.settings)


def _named(reviewer: str | None) -> str:
    from actors.errors import ConfigError

    if not reviewer or not reviewer.strip():
        raise ConfigError("--reviewer: missing; say who has decided")
    return reviewer.strip()


def _export(
    store: ObjectStore,
    folder: ObjectStore,
    kind: Format,
    conditions: list[str],
    limit: int | None,
    purpose: Purpose,
    queue: Queue,
    frames_at: str | None,
) -> int:
    from actors.errors import ConfigError
    from jobs.exchange.exporting import export_persons
    from jobs.exchange.tools import TOOLS
    from jobs.run.words import counted

    if purpose is Purpose.AUDIT and queue is not Queue.ALL:
        raise ConfigError("--queue: leave it out with --purpose audit, which draws among all persons")
    done = export_persons(store, folder, kind.value, conditions, limit, purpose.value, frames_at, queue.value)
    persons = sum(len(frame.persons) for frame in done.exported.frames)
    drawn = "drawn at random" if purpose is Purpose.AUDIT else "chosen"
    typer.echo(
        f"{counted(done.chosen, 'person')} {drawn} of {done.available:,}; with the others in their frames "
        f"{counted(persons, 'person')} in {counted(len(done.exported.frames), 'frame')}"
    )
    if done.by_values:
        typer.echo(
            f"decisions about these persons say nothing about others, because {' and '.join(done.by_values)} "
            "may change with a decision or an answer; select by camera, captured_at, hour, day or frame for "
            "a sample",
            err=True,
        )
    for name in done.set_aside:
        typer.echo(f"an earlier export's file that was saved is now {folder.uri_of(name)}", err=True)
    for name in done.exported.files:
        typer.echo(f"  {folder.uri_of(name)}")
    for shard_id, trouble in list(done.missing.items())[:5]:
        typer.echo(f"shard {shard_id}: frames are left out: {trouble}", err=True)
    if len(done.missing) > 5:
        typer.echo(f"and frames of {len(done.missing) - 5:,} other shards", err=True)
    typer.echo(
        f"next: {TOOLS[kind.value].advice}; then run shopframe review import --output {store.uri} --from "
        f"{folder.uri} --reviewer NAME"
    )
    return command.EXIT_SOME_FAILED if done.missing else command.EXIT_DONE


def _import(store: ObjectStore, folder: ObjectStore, reviewer: str) -> int:
    from jobs.exchange.importing import import_persons
    from jobs.run.words import counted

    done = import_persons(store, folder, reviewer)
    counts = done.counts
    typer.echo(
        f"{counted(len(done.decisions), 'new decision')} of {reviewer} about "
        f"{counted(counts['persons'], 'person')} in {counted(counts['frames'], 'frame')}"
    )
    typer.echo(
        f"  values {counts['values']}, moved boxes {counts['moved']}, not a person "
        f"{counts['not_a_person'] + counts['deleted']} (deleted regions {counts['deleted']}), missed persons "
        f"{counts['new']} (their values {counts['values_of_new']}, copied regions {counts['copies']}), "
        f"known before {counts['known']}"
    )
    if counts["confirmed"]:
        typer.echo(f"  {counted(counts['confirmed'], 'value')} of persons drawn at random are confirmed")
    if counts["erased"]:
        typer.echo(f"  {counted(counts['erased'], 'decision')} about persons that were erased are left out")
    if counts["found_by_box"]:
        typer.echo(
            f"{counted(counts['found_by_box'], 'region')} without a person's id were known by their boxes"
        )
    if counts["frames_without_file"]:
        typer.echo(
            f"in none of the files, or not reviewed yet: "
            f"{counted(counts['frames_without_file'], 'exported frame')}"
        )
    for problem in done.problems[:20]:
        typer.echo(problem, err=True)
    if len(done.problems) > 20:
        typer.echo(f"and {len(done.problems) - 20:,} other problems", err=True)
    if done.decisions:
        typer.echo(f"next: shopframe consolidate --output {store.uri}")
    return command.EXIT_SOME_FAILED if done.problems else command.EXIT_DONE


def _lost(store: ObjectStore) -> int:
    from jobs.exchange.lost import lost_decisions
    from jobs.run.words import counted

    count = 0
    for decision, reason in lost_decisions(store):
        count += 1
        what = decision.attribute or decision.kind
        typer.echo(
            f"{decision.shard_id} {decision.frame_key} {[round(v, 4) for v in decision.bbox]}: {what} = "
            f"{decision.value!r}, by {decision.reviewer} on {decision.decided_at:%Y-%m-%d %H:%M}: {reason}"
        )
    typer.echo(f"{counted(count, 'correction')} without a person")
    return command.EXIT_DONE


if __name__ == "__main__":
    command.run(review)
