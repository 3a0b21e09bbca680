"""What people have decided, counted for the report."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from actors.corrections.decision import Decision, in_force
from jobs.reporting.measures import label

CONFIRMED = "confirmed"
"""The kind of a decision for the value that the person had already."""
_CHANGES_SHOWN = 3


@dataclass(slots=True)
class Reviewer:
    """The decisions of one reviewer that count.

    Attributes:
        name: The reviewer.
        persons: The persons that these are about.
        kinds: Number of decisions by kind; values that were confirmed are a kind of their own.
        tools: Number of decisions by tool.
        random: Number of decisions about persons that were drawn at random.
        withdrawn: Number of decisions that no longer count.
        first: When the first one was made.
        last: When the last one was made.
    """

    name: str
    persons: set[tuple[object, ...]] = field(default_factory=set)
    kinds: Counter[str] = field(default_factory=Counter)
    tools: Counter[str] = field(default_factory=Counter)
    random: int = 0
    withdrawn: int = 0
    first: datetime | None = None
    last: datetime | None = None


@dataclass(frozen=True, slots=True)
class Corrections:
    """Decisions that count, by reviewer and by attribute.

    Attributes:
        total: Number of decisions.
        persons: Number of persons that they are about.
        reviewers: The reviewers, the busiest first.
        attributes: Number of decided values by reviewer, by attribute.
        confirmed: Number of decided values that changed nothing, by attribute.
        changes: The most frequent changes of each attribute, such as "male → female", with their numbers.
    """

    total: int
    persons: int
    reviewers: tuple[Reviewer, ...]
    attributes: dict[str, Counter[str]]
    confirmed: Counter[str]
    changes: dict[str, list[tuple[str, int]]]


def count_corrections(decisions: Iterable[Decision]) -> Corrections:
    """Count decisions. Those that were withdrawn, and the withdrawals, don't count."""
    listed = list(decisions)
    reviewers: dict[str, Reviewer] = {}
    attributes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    changes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    confirmed: Counter[str] = Counter()
    counting = in_force(listed)
    for one in counting:
        reviewer = reviewers.setdefault(one.reviewer, Reviewer(one.reviewer))
        is_confirmed = one.kind == "value" and one.value == one.replaces
        reviewer.kinds[CONFIRMED if is_confirmed else one.kind] += 1
        reviewer.persons.add((one.shard_id, one.frame_key, one.bbox, one.detection))
        reviewer.tools[one.tool] += 1
        reviewer.random += one.sampling == "random"
        reviewer.first = reviewer.first or one.decided_at
        reviewer.last = one.decided_at
        if one.attribute is not None:
            attributes[one.attribute][one.reviewer] += 1
            confirmed[one.attribute] += is_confirmed
            if not is_confirmed:
                changes[one.attribute][f"{label(one.replaces)} → {label(one.value)}"] += 1
    ids = {one.decision_id for one in counting}
    for one in listed:
        if one.kind != "withdrawal" and one.decision_id not in ids:
            reviewers.setdefault(one.reviewer, Reviewer(one.reviewer)).withdrawn += 1
    busiest = sorted(reviewers.values(), key=lambda r: (-r.kinds.total(), r.name))
    return Corrections(
        len(counting),
        len(set().union(*(reviewer.persons for reviewer in busiest))),
        tuple(busiest),
        dict(sorted(attributes.items())),
        confirmed,
        {name: counts.most_common(_CHANGES_SHOWN) for name, counts in changes.items()},
    )
