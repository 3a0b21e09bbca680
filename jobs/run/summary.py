"""The summary of an output: counts that add up, the first failures, and the next command."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from actors.time_text import duration, moment
from jobs.run.words import counted, wait_of

_POSTPONED_SHOWN = 5


def print_summary(console: Console, status: dict[str, Any], run: dict[str, Any]) -> None:
    """Print what the run did, the state of the output, the first failures, and what to do next."""
    table = Table(title=f"shopframe: {status['output']}", title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column()
    for name, text in _summary_rows(status, run):
        table.add_row(name, text)
    console.print(table)
    if status["models"]["notice"] is not None:
        console.print(Text(status["models"]["notice"]), soft_wrap=True)
    if run.get("documents"):
        console.print(Text(f"documents: {run['documents']}"), soft_wrap=True)
    if replaced := run.get("shards_replaced"):
        console.print(f"removed {counted(replaced, 'shard')} whose input is now in other shards")
    for line in _gemini_lines(run.get("gemini", {})):
        console.print(Text(line), soft_wrap=True)
    for shard in status["postponed"][:_POSTPONED_SHOWN]:
        console.print(Text(f"postponed: {shard['shard']}: {shard['error']}"), soft_wrap=True)
    for warning in run.get("warnings", []):
        console.print(Text(warning), soft_wrap=True)
    for failure in status["failures"]:
        console.print(Text(f"failed: {failure['shard']}: {failure['error']}"), soft_wrap=True)
    for failure in status["failed_frames"]:
        text = f"failed frame: {failure['input']}: {failure['error']}"
        console.print(Text(text), soft_wrap=True)
    for warning in status["warnings"]:
        console.print(Text(f"warning: {warning}"), soft_wrap=True)
    for line in _place_lines(status):
        console.print(Text(line), soft_wrap=True)
    console.print(Text(f"next: {status['next']}"), soft_wrap=True)


def _place_lines(status: dict[str, Any]) -> Iterator[str]:
    places = status["places"]
    if places["previews"]:
        yield f"previews: {places['previews']}"
    if places["report"]:
        yield f"report: {places['report']}"
    elif places["review"]:
        yield f"report: none yet; shopframe report --output {status['output']} writes it"
    if places["review"]:
        yield f"review: {places['review']}"


def _gemini_lines(gemini: dict[str, Any]) -> Iterator[str]:
    if held := gemini.get("held"):
        yield f"gemini: {counted(held, 'shard')} left to another run, which is working on it"
    if in_jobs := gemini.get("in_jobs"):
        yield (
            f"gemini: {counted(in_jobs, 'crop')} in open batch jobs not asked about: gemini.mode=batch waits "
            "for the answers"
        )
    if stopped := gemini.get("stopped"):
        yield f"gemini stopped: {stopped['reason']}"
    for shard_id, error in gemini.get("errors", {}).items():
        yield f"gemini: {shard_id}: {error}"


def _summary_rows(status: dict[str, Any], run: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if run:
        yield (
            "this run",
            (
                f"{counted(run['shards_done'], 'shard')} done, {run['shards_failed']:,} failed, "
                f"{run['shards_postponed']:,} postponed, {run['shards_skipped']:,} skipped (nothing to do), "
                f"{counted(run['frames'], 'frame')}, {counted(run['persons'], 'person')} in "
                f"{duration(run['seconds'])}"
            ),
        )
    shards, frames, persons = status["shards"], status["frames"], status["persons"]
    yield (
        "shards",
        (
            f"{shards['total']:,} = {shards['done']:,} done + {shards['failed']:,} failed + "
            f"{shards['pending']:,} pending"
        ),
    )
    if status["detector"] is not None and status["detector"]["int8"] is not None:
        yield "detector", status["detector"]["int8"]
    if status["smolvlm"] is not None and status["smolvlm"]["vision"] is not None:
        yield "vision tower", status["smolvlm"]["vision"]
    yield "frames", f"{frames['total']:,} = {frames['ok']:,} ok + {frames['failed']:,} failed"
    reasons = ", ".join(f"{reason} {n:,}" for reason, n in status["dropped"].items())
    yield (
        "persons",
        (
            f"{persons['detected']:,} detected = {persons['kept']:,} kept + {persons['dropped']:,} dropped"
            + (f" ({reasons})" if reasons else "")
        ),
    )
    for name, outcomes in status["annotators"].items():
        given = {outcome: n for outcome, n in outcomes.items() if n} or {"ok": 0}
        not_asked = persons["kept"] - sum(outcomes.values())
        if not_asked > 0:
            given["not annotated (the annotator was off)"] = not_asked
        parts = " + ".join(f"{n:,} {outcome}" for outcome, n in given.items())
        if owed := status["not_committed"].get(name):
            parts += f" ({counted(owed, 'more answer')} paid for, which the next run commits)"
        cost = status["cost_usd"].get(name)
        paid = f"; about ${cost:.4f} so far" if cost else ""
        yield name, f"{sum(given.values()):,} = {parts}{paid}"
    for name, models in status["answers"].items():
        if models:
            yield (
                f"{name} models",
                ", ".join(f"{counted(n, 'ok answer')} of {model}" for model, n in models.items()),
            )
    if persons["kept"]:
        yield "accuracy", _accuracy_text(status["accuracy"])
    cost = (run.get("gemini") or {}).get("cost_usd")
    if cost and any(cost.values()):
        yield "gemini cost", _cost_text(cost)
    quota = status["quota"]
    if quota is not None:
        left = "no daily limit" if quota["left_today"] is None else f"{quota['left_today']:,} left today"
        yield (
            "quota",
            (
                f"{quota['model']}: {counted(quota['spent_today'], 'request')} spent today, {left}, "
                f"resets at {moment(quota['resets_at'])}; {wait_of(quota['persons_waiting'])}, "
                + (
                    f"{counted(quota['days_left'], 'reset')} needed"
                    if quota["days_left"]
                    else "today's quota is enough"
                )
            ),
        )


def _accuracy_text(accuracy: dict[str, Any]) -> str:
    parts = []
    for name, one in accuracy["attributes"].items():
        sure = "" if one["low"] is None else f" ({one['low']:.2f}-{one['high']:.2f})"
        shown = "" if one["coverage"] in (None, 1) else f", coverage {one['coverage']:.0%}"
        parts.append(f"{name} {one['value']:.2f}{sure}{shown}")
    return f"{'; '.join(parts)}: {accuracy['note']}" if parts else str(accuracy["note"])


def _cost_text(cost: dict[str, float]) -> str:
    text = f"about ${cost['counted']:.4f} in this run by Google's counts (estimated ${cost['estimated']:.4f})"
    if cost["unknown"]:
        text += f", and at most ${cost['unknown']:.4f} for requests without an answer"
    return text
