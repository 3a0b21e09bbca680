"""The orders in which persons are looked at, on the page and in exports for review tools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

QueueName = Literal["all", "least_certain", "disagreeing", "violations", "rare", "audit"]

_UNCERTAIN = 0.5
_RARE = 0.02


@dataclass(frozen=True, slots=True)
class Queue:
    """An order in which persons are looked at.

    Attributes:
        title: Its name on the page.
        meaning: What it holds.
        condition: Condition in SQL on those who belong to it.
        order: Their order in SQL, if it isn't that of the frames.
    """

    title: str
    meaning: str
    condition: str
    order: str

    def ordered(self, by_frame: str) -> str:
        """Return the whole order in SQL.

        Args:
            by_frame: The order of the frames, in which equal persons are.
        """
        return f"{self.order}, {by_frame}" if self.order else by_frame


QUEUES: dict[QueueName, Queue] = {
    "all": Queue("Everyone", "All persons, frame by frame.", "true", ""),
    "least_certain": Queue(
        "Least certain",
        f"An attribute that nobody has decided is less than {_UNCERTAIN:.0%} of the way from a guess to "
        "certain; the least certain come first.",
        f"certainty < {_UNCERTAIN}",
        "certainty",
    ),
    "disagreeing": Queue(
        "Most disagreeing",
        "The annotators disagree about an attribute that nobody has decided; the most and surest "
        "disagreements come first.",
        "disagreement > 0",
        "disagreement DESC",
    ),
    "violations": Queue(
        "Rule violations",
        "The final values break a rule of the schema, and nobody has decided all of the values that it is "
        "about.",
        "broken_unseen <> 0",
        "bit_count(broken_unseen) DESC",
    ),
    "rare": Queue(
        "Rare values",
        f"A value that nobody has decided is one of less than {_RARE:.0%} of all persons; the rarest come "
        "first.",
        f"rarity < {_RARE}",
        "rarity",
    ),
    "audit": Queue(
        "Random audit",
        "Persons drawn at random, each with the same known probability, which decisions about them record.",
        "true",
        "",
    ),
}
