"""Shards whose frames were cut into parts, each with its own commit record, while a run processed them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Container, Iterator
from dataclasses import dataclass, field

from actors.storage import layout
from actors.storage.commit_record import CommitRecord


@dataclass(slots=True)
class CutShards:
    """The parts of cut shards, as far as commit records are added. Other shards cost no memory.

    Attributes:
        committed: Number of parts with a commit record, without the first part of each shard.
    """

    committed: int = 0
    _present: set[str] = field(default_factory=set)
    _next: dict[str, str] = field(default_factory=dict)
    _ranges: defaultdict[str, list[tuple[int, float, str]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, record: CommitRecord) -> None:
        """Add the commit record of any shard."""
        if record.input.first_frame:
            self.committed += 1
            self._present.add(record.shard_id)
        if record.next_id is not None:
            self._next[record.shard_id] = record.next_id
        first, stop = record.input.first_frame, record.input.stop_frame
        if first or stop is not None:
            end = math.inf if stop is None else stop
            self._ranges[layout.cut_id(record.shard_id)].append((first, end, record.shard_id))

    def overlaps(self, committed: Container[str]) -> Iterator[tuple[str, str]]:
        """Yield the id of each part that begins within an earlier one, and the id of that one.

        Args:
            committed: Ids of shards that are done. Those of them that aren't cut have all frames.
        """
        for whole, ranges in self._ranges.items():
            ordered = sorted(ranges)
            end, before = -math.inf, ""
            if ordered[0][0] and whole in committed:
                end, before = math.inf, whole
            for first, stop, shard_id in ordered:
                if first < end:
                    yield shard_id, before
                if stop > end:
                    end, before = stop, shard_id

    @property
    def not_committed(self) -> set[str]:
        """The ids of the parts that other parts leave their frames to, and that have no commit record."""
        return set(self._next.values()) - self._present

    def is_complete(self, shard_id: str) -> bool:
        """Return whether each part after one that is committed has a commit record too."""
        following = self._next.get(shard_id)
        while following is not None:
            if following not in self._present:
                return False
            following = self._next.get(following)
        return True
