"""Shards whose frames were cut into parts, each with its own commit record, while a run processed them."""

from __future__ import annotations

from dataclasses import dataclass, field

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

    def add(self, record: CommitRecord) -> None:
        """Add the commit record of any shard."""
        if record.input.first_frame:
            self.committed += 1
            self._present.add(record.shard_id)
        if record.next_id is not None:
            self._next[record.shard_id] = record.next_id

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
