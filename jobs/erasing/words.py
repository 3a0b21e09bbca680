"""What an erasure did, or would do, in the words of the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from jobs.erasing.erasing import Erased
from jobs.erasing.traces import ANALYSIS_FILES, EVALUATION_FILES, REPORT_FILES
from jobs.run.words import counted

_TOTALS = ("persons", "frames")

CACHED = "pictures and tables in the cache of shopframe serve"
"""The kind of what `shopframe serve` keeps on this machine."""


def lines_of(done: Erased, erased: bool) -> Iterator[str]:
    """Yield a line about all persons, one for each kind of thing, and the next command.

    Args:
        done: The numbers.
        erased: Whether it was done.
    """
    yield f"{'erased' if erased else 'would erase'} {_all_of(done)}"
    yield from _kinds(done)
    if done.again:
        yield "an earlier erasure was about this person, and nothing is left of it to erase"
    if not erased:
        yield (
            "nothing was changed; the same command with --yes erases them, and deletes the earlier versions "
            "of the consolidated tables and everything that no commit record names"
        )


def commands_after(done: Erased, output: str) -> Iterator[str]:
    """Yield a line for each thing that was deleted whole and that a command makes again, with the command."""
    if done.counts[REPORT_FILES]:
        yield f"the report was deleted, as it shows persons; next: shopframe report --output {output}"
    if done.counts[EVALUATION_FILES]:
        remade = f"shopframe evaluate --output {output} --truth FILE"
        yield f"the evaluation was deleted, as it names persons; next: {remade}"
    if done.counts[ANALYSIS_FILES]:
        yield f"the analysis was deleted, as it counts persons; next: shopframe analyze --output {output}"


def retained(done: Erased, days: float, erased: bool) -> Iterator[str]:
    """Yield a line about the persons that `output.retain_days` was too short for, and the kinds of things."""
    yield f"output.retain_days={days:g}: {'erased' if erased else 'would erase'} {_all_of(done)}"
    yield from _kinds(done)


def _all_of(done: Erased) -> str:
    where = f"{counted(done.counts['frames'], 'frame')}, {counted(done.shards, 'shard')}"
    return f"{counted(done.counts['persons'], 'person')} ({where})"


def _kinds(done: Erased) -> Iterator[str]:
    kinds = {kind: count for kind, count in sorted(done.counts.items()) if count and kind not in _TOTALS}
    width = max(map(len, kinds), default=0)
    for kind, count in kinds.items():
        yield f"  {kind:<{width}}  {count:>9,}"
    if done.without_time:
        has = "has" if done.without_time == 1 else "have"
        yield f"{counted(done.without_time, 'frame')} {has} no time, so an erasure by time leaves them alone"
