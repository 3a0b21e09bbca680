"""Which shards share a file of the consolidated tables, and what the rows of a file follow from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from actors.records import SCHEMA_VERSION
from jobs.run.consolidated_rows import FinalValues

_SHARDS_PER_FILE = 64


@dataclass(frozen=True, slots=True)
class ShardGroup:
    """The shards of one file, each with the etag of its record. The digest changes when one of these does."""

    digest: str
    records: tuple[tuple[str, str], ...]

    @property
    def shard_ids(self) -> tuple[str, ...]:
        """The shards in the order of the listing."""
        return tuple(shard_id for shard_id, _ in self.records)


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What rows follow from, beside the record of their shard.

    Attributes:
        made_with: What all rows follow from.
        by_shard: What the rows of a shard follow from, as a digest, where there is such a thing.
    """

    made_with: str = SCHEMA_VERSION
    by_shard: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_persons(cls, final: FinalValues) -> Self:
        """Return those of final values: how sources are weighed, and the decisions about persons."""
        by_shard = {shard_id: _digest(_decision_ids([shard_id], final)) for shard_id in final.decisions}
        return cls(" ".join([SCHEMA_VERSION, *final.consensus.follows_from]), by_shard)

    def made_of(self, shard_id: str, etag: str) -> str:
        """Return what the rows of a shard follow from, beside `made_with`.

        Args:
            shard_id: The shard.
            etag: Etag of its record in the listing.
        """
        return f"{etag} {self.by_shard[shard_id]}" if shard_id in self.by_shard else etag


def starts_file(shard_id: str) -> bool:
    """Return whether a file begins with this shard wherever it is in the listing: about one in 64 does."""
    return int.from_bytes(hashlib.sha256(shard_id.encode()).digest()[:4]) % _SHARDS_PER_FILE == 0


def shard_groups(records: Iterable[tuple[str, str]]) -> Iterator[ShardGroup]:
    """Yield the groups of a listing of the records.

    Args:
        records: Shards with the etags of their records, in the order of the listing.
    """
    group: list[tuple[str, str]] = []
    for shard_id, etag in records:
        if group and (starts_file(shard_id) or len(group) == 4 * _SHARDS_PER_FILE):
            yield _group(group)
            group = []
        group.append((shard_id, etag))
    if group:
        yield _group(group)


def with_decisions(group: ShardGroup, final: FinalValues) -> ShardGroup:
    """Return a group whose digest also changes with the decisions about its persons and the consensus."""
    content = [group.digest, *final.consensus.follows_from, *_decision_ids(group.shard_ids, final)]
    return replace(group, digest=_digest(content))


def _group(records: Sequence[tuple[str, str]]) -> ShardGroup:
    content = "\n".join([SCHEMA_VERSION, *(f"{shard_id} {etag}" for shard_id, etag in records)])
    return ShardGroup(hashlib.sha256(content.encode()).hexdigest()[:16], tuple(records))


def _decision_ids(shard_ids: Iterable[str], final: FinalValues) -> list[str]:
    return sorted(d.decision_id for shard_id in shard_ids for d in final.decisions.get(shard_id, ()))


def _digest(content: Iterable[str]) -> str:
    return hashlib.sha256(" ".join(content).encode()).hexdigest()[:16]
