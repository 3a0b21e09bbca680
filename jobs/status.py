"""`shopframe status`: what is done, what failed, what waits, and what to do next."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from actors.errors import ConfigError
from actors.records import OUTCOMES
from actors.storage import layout
from actors.storage.object_store import ObjectStore
from actors.storage.record_index import read_records

_FAILURES_SHOWN = 5


@dataclass(slots=True)
class Totals:
    """Sums over commit records.

    frames = frames ok + frames failed; detected = kept + dropped; kept = sum of the outcomes of each
    annotator that was asked about all of them.
    """

    shards: Counter[str] = field(default_factory=Counter)
    frames: Counter[str] = field(default_factory=Counter)
    persons: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    annotators: dict[str, Counter[str]] = field(default_factory=dict)
    failures: list[dict[str, str]] = field(default_factory=list)

    def add(self, shard: Any) -> None:
        """Add one shard: a commit record, or the summary that its commit returned."""
        counts = shard.counts
        self.shards[shard.state] += 1
        self.frames.update(total=counts.frames, ok=counts.frames_ok, failed=counts.frames_failed)
        dropped = sum(counts.dropped.values())
        self.persons.update(detected=counts.detected, kept=counts.kept, dropped=dropped)
        self.dropped.update(counts.dropped)
        for name, outcomes in shard.annotators.items():
            self.annotators.setdefault(name, Counter()).update(outcomes)
        if shard.error is not None and len(self.failures) < _FAILURES_SHOWN:
            self.failures.append({"shard": shard.shard_id, "error": shard.error})


def read_run(store: ObjectStore) -> dict[str, Any]:
    """What `run.json` says of the last run.

    Raises:
        ConfigError: There is no run in this place.
    """
    try:
        return dict(json.loads(store.read(layout.RUN)))
    except FileNotFoundError as error:
        raise ConfigError(
            f"{store.uri}: no run.json here; give --output as it was given to shopframe annotate"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{store.full(layout.RUN)}: not JSON; run shopframe annotate again") from error


def output_status(store: ObjectStore, keep_index: bool = False) -> dict[str, Any]:
    """The state of an output, from its commit records; the number of planned shards from `run.json`.

    Args:
        store: The output.
        keep_index: As for `read_records`.

    Raises:
        ConfigError: There is no run in this place.
    """
    run = read_run(store)
    totals = Totals()
    for record, _ in read_records(store, keep_index):
        totals.add(record)
    done, failed = totals.shards["done"], totals.shards["failed"]
    total = max(int(run["plan"]["shards"]), done + failed)
    status = {
        "output": store.uri,
        "shards": {"total": total, "done": done, "failed": failed, "pending": total - done - failed},
        "frames": {key: totals.frames[key] for key in ("total", "ok", "failed")},
        "persons": {key: totals.persons[key] for key in ("detected", "kept", "dropped")},
        "dropped": dict(sorted(totals.dropped.items())),
        "annotators": {
            name: {outcome: counts[outcome] for outcome in OUTCOMES}
            for name, counts in sorted(totals.annotators.items())
        },
        "failures": totals.failures,
    }
    return status | {"next": what_next(status)}


def what_next(status: dict[str, Any]) -> str:
    """The command that a person would run now."""
    shards, output = status["shards"], status["output"]
    if shards["pending"]:
        return f"{shards['pending']} shards are still to do: run the same shopframe annotate command again"
    if shards["failed"]:
        return (
            f"{shards['failed']} shards failed: mend what `failures` says, then shopframe annotate ... "
            f"--output {output} --retry-failed"
        )
    for name, outcomes in status["annotators"].items():
        owed = sum(n for outcome, n in outcomes.items() if outcome in ("error", "pending"))
        if owed:
            return f"{owed} persons wait for {name}: shopframe annotate ... --retry-annotator {name}"
    return f"all done: query {output}/{layout.CONSOLIDATED}/*.parquet"


if __name__ == "__main__":
    from jobs.cli import main_of

    main_of("status")
