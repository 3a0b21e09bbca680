"""Divide frames into splits, so that what resembles each other stays on one side."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Literal

from actors.errors import ConfigError
from actors.storage import layout

SPLITS = ("train", "val", "test")
DEFAULT_SHARES = "train=0.8,val=0.1,test=0.1"
Period = Literal["day", "hour", "minute"]
_SECONDS: Mapping[Period, int] = {"day": 86_400, "hour": 3600, "minute": 60}


def parse_shares(text: str) -> dict[str, float]:
    """Return the share of each split that has one, such as of `train=0.8,val=0.2`; they sum to 1.

    Raises:
        ConfigError: It is not written like that.
    """
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        try:
            share = float(number)
        except ValueError:
            share = math.nan
        if name.strip() not in SPLITS or name.strip() in shares or not 0 <= share < math.inf:
            raise ConfigError(f"--splits {text}: write it as {DEFAULT_SHARES}, each split at most once")
        shares[name.strip()] = share
    total = sum(shares.values())
    if not total:
        raise ConfigError(f"--splits {text}: every share is 0")
    return {name: shares[name] / total for name in SPLITS if shares.get(name)}


def group_of(camera: str | None, captured_at: datetime | None, shard_id: str, period: Period) -> str:
    """Return the name of the group that a frame belongs to, which is never divided.

    A group is what one camera took within a period of UTC. Frames without a time are kept together by shard,
    whatever parts it was divided into.
    """
    if captured_at is None:
        whole = re.sub(r"\.part-\d+$", "", layout.cut_id(shard_id))
        return f"{camera or ''}/shard {whole}"
    since = int(captured_at.timestamp()) // _SECONDS[period]
    return f"{camera or ''}/{period} {since}"


def assign(groups: Iterable[str], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Return the split of each group.

    A group's split follows from the hash of its name, whatever other groups there are. Only where a split
    would have no group at all, it gets the one with the largest hash of the split with the most groups.

    Args:
        groups: Names of groups.
        shares: The share of each split.
        seed: Another one gives other splits.
    """
    places = {group: _place(group, seed) for group in sorted(groups)}
    limits = list(itertools.accumulate(shares.values()))
    names = list(shares)
    found: dict[str, list[str]] = {name: [] for name in names}
    for group, place in places.items():
        split = next((name for name, limit in zip(names, limits, strict=True) if place < limit), names[-1])
        found[split].append(group)
    for name in empty_splits(found, shares):
        largest = max(found.values(), key=len)
        if len(largest) > 1:
            moved = max(largest, key=lambda group: places[group])
            largest.remove(moved)
            found[name].append(moved)
    return {group: name for name, some in found.items() for group in some}


def empty_splits(found: Mapping[str, object], shares: Mapping[str, float]) -> list[str]:
    """Return the splits that have a share, but nothing in them."""
    return [name for name in shares if not found.get(name)]


def _place(group: str, seed: int) -> float:
    """Return a number from 0 up to 1 that follows from a name."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{group}".encode()).digest()[:6], "big") / 2**48
