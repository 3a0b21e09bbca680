"""The pages of a review: which persons a view has, in which order, and how far the review has come."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actors.corrections.draw import in_words
from jobs.evaluation.proportion import Proportion
from jobs.exchange.queues import QUEUES
from jobs.serving.deciding import DecisionDesk, Drawn
from jobs.serving.person_table import PersonTable
from jobs.serving.view import VERDICT, Conditions, View, Where, draw_of

_SELECTIONS = 8
"""Selections that are kept, so that pages follow each other while decisions are made."""
_NEXT = 100


@dataclass(frozen=True, slots=True)
class Selection:
    """The persons of a view.

    Attributes:
        ids: Their ids, in order, int32.
        drawn: How they were drawn, or None if they were chosen by need.
    """

    ids: NDArray[np.int32]
    drawn: Drawn | None = None


@dataclass(frozen=True, slots=True)
class QueueState:
    """How far the review of a queue has come.

    Attributes:
        left: Persons that are still to be decided.
        incomplete: Persons of an audit that were decided in part: a value is missing or withheld, and nobody
            has decided about it.
        decided: Persons that were decided in the queue.
        changed: Those of them of whom something was changed.
        next: A hundred, or the number of those that are left.
        expected: How many of the next ones are expected to be changed: from the share of changes among those
            decided so far, with the ends of its 95% interval. None before the first one.
    """

    left: int
    incomplete: int
    decided: int
    changed: int
    next: int
    expected: tuple[float, float, float] | None


class Review:
    """The selections of one table.

    Methods block, and may be called from several threads.
    """

    def __init__(self, table: PersonTable, desk: DecisionDesk) -> None:
        self._table = table
        self._desk = desk
        self._conditions = Conditions(table.schema)
        self._selections: OrderedDict[View, Selection] = OrderedDict()
        self._lock = threading.Lock()

    def selection(self, view: View, fresh: bool = False) -> Selection:
        """Return the persons of a view. They stay the same while decisions are made, until asked for afresh.

        Raises:
            ConfigError: A condition is wrong.
        """
        with self._lock:
            found = None if fresh else self._selections.get(view)
            if found is None:
                found = self._select(view)
                self._selections[view] = found
            self._selections.move_to_end(view)
            while len(self._selections) > _SELECTIONS:
                self._selections.popitem(last=False)
            return found

    def state(self, view: View) -> QueueState:
        """Return how far the review of a view's queue has come."""
        progress = self._desk.progress().get(view.queue)
        decided, changed = (len(progress.decided), len(progress.changed)) if progress is not None else (0, 0)
        if view.queue == "audit":
            draw = draw_of(view)
            done = self._desk.decided_persons(self._table, draw)
            drawn = self.selection(view).ids.tolist()
            left = sum(number not in done for number in drawn)
            rows = self._table.rows([number for number in drawn if number in done])
            incomplete = len(self._desk.open_attributes(self._table, rows, draw))
        else:
            left, incomplete = self._count(view), 0
        coming = min(_NEXT, left)
        share = Proportion.of(changed, decided)
        expected = None
        if share.share is not None and share.low is not None and share.high is not None:
            expected = (share.share * coming, share.low * coming, share.high * coming)
        return QueueState(left, incomplete, decided, changed, coming, expected)

    def sizes(self) -> dict[str, int]:
        """Return the number of persons in each queue, without further conditions."""
        return {name: self._count(View(queue=name)) for name in QUEUES if name != "audit"}

    def _count(self, view: View) -> int:
        where = self._where(view)
        found: int = self._table.query(f"SELECT count(*) FROM persons WHERE {where.text}", where.parameters)[
            0
        ][0]
        return found

    def _where(self, view: View) -> Where:
        if any(condition.column == VERDICT for condition in view.conditions):
            self._table.load_dropped()
        return self._conditions.where(view)

    def _select(self, view: View) -> Selection:
        where = self._where(view)
        if view.queue != "audit":
            order = QUEUES[view.queue].ordered("id")
            query = f"SELECT id FROM persons WHERE {where.text} ORDER BY {order}"
            return Selection(self._table.ids(query, where.parameters))
        # Ordered by a digest of their names, persons come in an order that is random and always the same.
        # Draws among different persons have different orders, so that they are independent of each other.
        draw = draw_of(view)
        name = "concat_ws(chr(10), ?::VARCHAR, shard_id, frame_key, person_index)"
        among = f" {in_words(draw.among)}" if draw.among else ""
        ids = self._table.ids(
            f"SELECT id FROM persons WHERE {where.text} ORDER BY md5({name}), id LIMIT {view.size}",
            [*where.parameters, f"{view.seed}{among}"],
        )
        available = self._count(view)
        return Selection(ids, Drawn(draw, len(ids) / available) if available else None)
