"""`shopframe clean`: delete what no commit record names and no running command may need."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import command

if TYPE_CHECKING:
    from actors.storage.object_store import ObjectStore
    from jobs.settings import Settings


def clean(
    output: command.Output = None,
    config: command.Config = None,
    overrides: command.Set = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list what would be deleted, and why.")
    ] = False,
    older_than_hours: Annotated[
        float,
        typer.Option(
            min=0,
            help="Age from which an object that no commit record names is deleted in any case. Younger ones "
            "may belong to a running command. Pass 0 only if nothing runs on this output.",
        ),
    ] = 24.0,
) -> None:
    """Delete what no commit record names and no running command may need."""
    from jobs.run.leftovers import LeftoverFinder
    from jobs.run.sweep import delete_dead

    # The output must have a run: without one, this may be any folder, and what lies in it somebody's own.
    loaded = command.load_as_last_run(config, overrides, output)
    store = command.output_of(loaded)
    found = LeftoverFinder(store, older_than_hours * 3600).find_all()
    deleted, kept = _Tally(), _Tally()
    for leftover in found if dry_run else delete_dead(store, found):
        (deleted if leftover.dead else kept).add(leftover.kind, leftover.info.size_bytes)
        if dry_run:
            would = "would delete" if leftover.dead else "would keep"
            typer.echo(
                f"{would} {leftover.info.path} ({leftover.info.size_bytes:,} bytes): {leftover.reason}"
            )
    if not deleted.objects:
        typer.echo("nothing to delete")
    else:
        typer.echo("\n".join(deleted.lines("would delete" if dry_run else "deleted")))
    if kept.objects:
        typer.echo("\n".join(kept.lines("kept, because they may still be needed:")))
        if not dry_run:
            typer.echo("shopframe clean --dry-run lists each with its reason")
    _retain(store, loaded.settings, dry_run)


def _retain(store: ObjectStore, settings: Settings, dry_run: bool) -> None:
    """Erase the persons that are older than `output.retain_days`."""
    days, since = settings.output.retain_days, settings.output.retained_since()
    if days is None or since is None:
        return
    from actors.attributes import AttributeSchema
    from jobs.erasing.erasing import Eraser
    from jobs.erasing.selection import Selection
    from jobs.erasing.words import retained

    eraser = Eraser(store, AttributeSchema(settings.attributes), settings.consensus)
    selection = Selection("retention", before=since)
    done = eraser.look(selection)
    if done.counts["persons"] and not dry_run:
        done = eraser.erase(selection)
    typer.echo("\n".join(retained(done, days, erased=not dry_run)))


@dataclass(slots=True)
class _Tally:
    objects: Counter[str] = field(default_factory=Counter)
    size_bytes: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, size_bytes: int) -> None:
        self.objects[kind] += 1
        self.size_bytes[kind] += size_bytes

    def lines(self, title: str) -> list[str]:
        """Return a line for each kind with the number of its objects and their size, under a line of all."""
        from jobs.run.words import counted

        width = max(map(len, self.objects))
        return [
            f"{title} {counted(self.objects.total(), 'object')}, {self.size_bytes.total():,} bytes",
            *(
                f"  {kind:<{width}}  {count:>9,}  {self.size_bytes[kind]:>15,} bytes"
                for kind, count in sorted(self.objects.items())
            ),
        ]


if __name__ == "__main__":
    command.run(clean)
