"""What the server answers from: the newest table, the decisions, and the pictures."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from actors.attribute_settings import SchemaSettings
from actors.attributes import AttributeSchema
from actors.corrections.consensus import read_consensus
from actors.corrections.final_values import CONFIDENCE, CORRECTED_BOX, IS_PERSON, SOURCE
from actors.corrections.settings import ConsensusSettings
from actors.errors import ConfigError
from actors.read.settings import InputSettings
from actors.storage import layout
from actors.storage.object_store import ObjectStore
from actors.storage.snapshot_table import SnapshotTable
from jobs.exchange.computed_columns import columns_by_values
from jobs.exchange.person_queries import DISAGREES
from jobs.exchange.queues import QUEUES
from jobs.run.local_copies import copies_of
from jobs.run.run_record import RunRecord, read_run
from jobs.serving.charts import Charts, chart_columns
from jobs.serving.deciding import Action, DecisionDesk
from jobs.serving.frame_boxes import dropped_in_frame
from jobs.serving.person_table import PersonTable
from jobs.serving.picture_cache import PictureCache
from jobs.serving.pictures import Pictures
from jobs.serving.review import Review
from jobs.serving.view import View

_ANSWER_PARTS = ("status", "reason", "reasoning", "model", "violations")


@dataclass(slots=True)
class _Loaded:
    """The newest table and what is made of it."""

    table: PersonTable
    review: Review
    charts: Charts
    keys: dict[str, str] = field(default_factory=dict)


class Session:
    """An output that is looked at. Methods block, and may be called from several threads.

    Args:
        store: The output.
        reviewer: Who decides.
        cache: Folder for this machine's copies.
        cache_bytes: Maximum size of the pictures among them.

    Raises:
        ConfigError: The output has no consolidated persons, or no run.
        StoreError, OSError: The output can't be read, or the folder can't be written.
    """

    def __init__(self, store: ObjectStore, reviewer: str, cache: Path, cache_bytes: int) -> None:
        self.store = store
        self._folder = copies_of(store, cache)
        self._desk = DecisionDesk(store, reviewer)
        self._lock = threading.Lock()
        run = read_run(store)
        self._loaded = self._load(run)
        self.pictures = Pictures(
            store,
            run.section("input", InputSettings),
            store.settings,
            PictureCache(self._folder / "pictures", cache_bytes),
        )

    def close(self) -> None:
        """Free what it holds."""
        self.pictures.close()
        self._loaded.table.close()

    def refresh(self, always: bool = False) -> None:
        """Read the decisions that others have made, and the consolidated table if there is a newer one."""
        with self._lock:
            paths = SnapshotTable(self.store, layout.CONSOLIDATED).paths() or []
            if always or tuple(paths) != self._loaded.table.version:
                # The old table is left to the garbage collector, because others may be reading it.
                self._loaded = self._load(read_run(self.store))
                self.pictures.forget()
            else:
                self._desk.read(self._loaded.table)

    def _load(self, run: RunRecord) -> _Loaded:
        schema = AttributeSchema(run.section("schema", SchemaSettings))
        consensus = read_consensus(self.store, run.section("consensus", ConsensusSettings))
        table = PersonTable(self.store, schema, consensus, self._folder)
        self._desk.read(table)
        return _Loaded(table, Review(table, self._desk), Charts(table, table.schema), keys_of(table.schema))

    @property
    def unsaved(self) -> int:
        """Number of persons whose consolidated row lacks something that was decided since."""
        return self._loaded.table.unsaved

    # --- what the page asks for ---

    def numbers(self) -> str:
        """Return a page about how sure the numbers are, and what the shop did, as HTML."""
        # matplotlib takes a second to import, which the wall doesn't wait for.
        from jobs.findings.how_sure import how_sure_section
        from jobs.findings.page import render_numbers
        from jobs.findings.shop import shop_section

        sure = how_sure_section(self.store)
        shop = shop_section(self.store, lambda file: f"heat-maps/{quote(file)}")
        return render_numbers({"output": self.store.uri, "sure": sure, **shop})

    def heat_map(self, file: str) -> bytes | None:
        """Return a heat map of the last analysis, or None if it has none of this name."""
        from jobs.findings.shop import heat_map

        return heat_map(self.store, file)

    def about(self) -> dict[str, Any]:
        """Return what doesn't depend on a view."""
        at = self._loaded
        schema = at.table.schema
        return {
            "output": self.store.uri,
            "table": at.table.name,
            "reviewer": self._desk.reviewer,
            "annotators": at.table.annotators,
            "attributes": [
                {
                    "name": a.name,
                    "type": a.type,
                    "values": list(a.values) if a.type != "integer" else [],
                    "range": [v for v in a.values if v is not None][:: max(1, len(a.values) - 2)][:2]
                    if a.type == "integer"
                    else None,
                    "description": a.description,
                    "key": at.keys[a.name],
                }
                for a in schema
            ],
            "charts": chart_columns(schema),
            "rules": [rule.text for rule in schema.rules],
            "queues": [
                {"name": name, "title": queue.title, "meaning": queue.meaning}
                for name, queue in QUEUES.items()
            ],
            "sizes": at.review.sizes(),
            "unsaved": at.table.unsaved,
            "decided": at.table.decided(),
        }

    def persons(self, view: View, after: int, limit: int, fresh: bool) -> tuple[dict[str, Any], list[Any]]:
        """Return a page of the persons of a view, and the rows of those on it and on the page after it."""
        at = self._loaded
        selection = at.review.selection(view, fresh)
        ids = selection.ids[after : after + 2 * limit].tolist()
        rows = at.table.rows(ids)
        drawn = selection.drawn
        undecided = self._undecided(view, rows[:limit])
        by_values = columns_by_values(drawn.draw.among, at.table.schema, at.table.annotators) if drawn else []
        shown = {
            "count": len(selection.ids),
            "probability": drawn.probability if drawn else None,
            "by_values": by_values,
            "persons": [self._tile(row, undecided) for row in rows[:limit]],
        }
        return shown, rows

    def charts(self, view: View, columns: list[str]) -> list[dict[str, Any]]:
        """Return charts of a view."""
        return [asdict(self._loaded.charts.chart(view, column)) for column in columns]

    def queue(self, view: View) -> dict[str, Any]:
        """Return how far the review of a view's queue has come, and the sizes of all queues."""
        review = self._loaded.review
        return {**asdict(review.state(view)), "sizes": review.sizes()}

    def person_row(self, number: int) -> dict[str, Any]:
        """Return the row of a person.

        Raises:
            ConfigError: There is no such person.
        """
        rows = self._loaded.table.rows([number])
        if not rows:
            raise ConfigError(f"there is no person {number}")
        return rows[0]

    def person(self, number: int, view: View) -> dict[str, Any]:
        """Return all about a person: final values, answers, history, frame, and neighbours in the view."""
        at = self._loaded
        row = self.person_row(number)
        answers = at.table.answers(row)
        ids = at.review.selection(view).ids
        found = (ids == number).nonzero()[0]
        place = int(found[0]) if len(found) else None
        return {
            **self._tile(row, self._undecided(view, [row])),
            "person_id": f"{row['shard_id']}/{layout.object_name(row['frame_key'])}/{row['person_index']}",
            "shard_id": row["shard_id"],
            "frame_key": row["frame_key"],
            "width": answers.get("width"),
            "height": answers.get("height"),
            "score": row["score"],
            "certainty": row["certainty"],
            "place": place,
            "count": len(ids),
            "previous": int(ids[place - 1]) if place else None,
            "next": int(ids[place + 1]) if place is not None and place + 1 < len(ids) else None,
            "answers": {name: self._answer(name, answers) for name in at.table.annotators},
            "rules": [
                rule.text for n, rule in enumerate(at.table.schema.rules) if (row["broken"] or 0) >> n & 1
            ],
            "frame": [self._tile(other) for other in at.table.in_frame(row["shard_id"], row["frame_key"])],
            "dropped": dropped_in_frame(self.store, row["shard_id"], row["frame_key"]),
            "history": [
                _plain(decision.model_dump(mode="json")) | {"counts": counts}
                for decision, counts in self._desk.history(at.table, row)
            ],
        }

    def decide(self, action: Action) -> dict[str, Any]:
        """Decide, and return the persons as they are now."""
        at = self._loaded
        drawn = None
        if action.view.queue == "audit":
            selection = at.review.selection(action.view)
            if set(action.ids) <= set(selection.ids.tolist()):
                drawn = selection.drawn
        decided = self._desk.decide(at.table, action, drawn)
        return {
            **self._changed(decided.ids, action.view),
            "action": decided.action,
            "decisions": decided.decisions,
        }

    def undo(self, action: int, view: View) -> dict[str, Any]:
        """Take back an action, and return the persons as they are now.

        Args:
            action: The number of the action.
            view: What the page shows.
        """
        return self._changed(self._desk.undo(self._loaded.table, action), view)

    def _changed(self, ids: list[int], view: View) -> dict[str, Any]:
        before = self._loaded.table
        if before.is_outdated:
            self.refresh(always=True)
        table = self._loaded.table
        # Ids of another table are of other persons.
        rows = table.rows(ids) if table.name == before.name else []
        undecided = self._undecided(view, rows)
        return {
            "persons": [self._tile(row, undecided) for row in rows],
            "unsaved": table.unsaved,
            "decided": table.decided(),
        }

    def _undecided(self, view: View, rows: list[dict[str, Any]]) -> dict[int, list[str]]:
        """Return by id the attributes of an audit's persons that "All is right" leaves undecided."""
        at = self._loaded
        selection = at.review.selection(view) if view.queue == "audit" else None
        if selection is None or selection.drawn is None:
            return {}
        drawn = set(selection.ids.tolist())
        return self._desk.open_attributes(
            at.table, [row for row in rows if row["id"] in drawn], selection.drawn.draw
        )

    def _tile(
        self, row: dict[str, Any], undecided: Mapping[int, list[str]] = MappingProxyType({})
    ) -> dict[str, Any]:
        names = self._loaded.table.schema.names
        captured: datetime | None = row["captured_at"]
        return {
            "id": row["id"],
            "camera": row["camera"],
            "captured_at": None if captured is None else captured.isoformat(sep=" ", timespec="seconds"),
            "bbox": row["bbox"],
            "box": row[CORRECTED_BOX] or row["bbox"],
            "is_person": row[IS_PERSON] is not False,
            "verdict": row["verdict"],
            "decided": bool(row["decided"]),
            "values": {name: row[name] for name in names},
            "sources": {name: row[f"{name}_{SOURCE}"] for name in names},
            "confidences": {name: _rounded(row[f"{name}_{CONFIDENCE}"]) for name in names},
            "disagrees": [name for name in names if row[f"{name}_{DISAGREES}"]],
            "undecided": undecided.get(row["id"], []),
        }

    def _answer(self, annotator: str, row: dict[str, Any]) -> dict[str, Any]:
        names = self._loaded.table.schema.names
        return {
            **{part: row.get(f"{annotator}_{part}") for part in _ANSWER_PARTS},
            "values": {name: row.get(f"{annotator}_{name}") for name in names},
            "confidences": {name: _rounded(row.get(f"{annotator}_{CONFIDENCE}_{name}")) for name in names},
        }


_OWN_KEYS = "nkuxbr?"
"""Keys of the page that are no attribute's: next, previous, undo, not a person, box, and select or reload."""


def keys_of(schema: AttributeSchema) -> dict[str, str]:
    """Return a key for each attribute: a letter of its name, or any other one that is free."""
    found: dict[str, str] = {}
    taken = set(_OWN_KEYS)
    for name in schema.names:
        letters = [c for c in name.lower() if c.isascii() and c.isalpha()] + list(
            "abcdefghijklmnopqrstuvwxyz123456789"
        )
        key = next((letter for letter in letters if letter not in taken), "")
        found[name] = key
        taken.add(key)
    return found


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _plain(content: dict[str, Any]) -> dict[str, Any]:
    """Return a decision without what the page doesn't show."""
    shown = (
        "decision_id",
        "decided_at",
        "reviewer",
        "tool",
        "kind",
        "attribute",
        "value",
        "replaces",
        "new_bbox",
    )
    return {name: content[name] for name in (*shown, "withdraws", "sampling", "probability", "queue")}


def as_json(value: object) -> str:
    """Return a value that JSON doesn't have as text."""
    if isinstance(value, date | datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} can't be written as JSON")
