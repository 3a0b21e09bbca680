"""What a run and its Gemini annotator say to each other; online and batch mode are two of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from actors.gemini.answer_journal import JournalEntry
from actors.gemini.api.packing import Crop
from actors.records import SETTLED, Outcome

Person = tuple[str, int]
"""Frame key and person index: who it is within a shard."""


@dataclass(frozen=True, slots=True)
class DrainTask:
    """One shard of the backlog.

    Attributes:
        shard_id: Which shard.
        keep: Committed outcomes that stand, if they answer the same question.
        chosen: Whom to ask about, or None for all who wait.
    """

    shard_id: str
    keep: tuple[Outcome, ...] = SETTLED
    chosen: tuple[Person, ...] | None = None


@dataclass(frozen=True, slots=True)
class AskedCrop:
    """One crop that Gemini is to be asked about.

    Attributes:
        shard_id: Where it belongs.
        crop: As it was cut out; its key names the person.
    """

    shard_id: str
    crop: Crop


@dataclass(frozen=True, slots=True)
class Stop:
    """Why nothing more is sent in this run.

    Attributes:
        kind: daily_quota: until the reset; budget: the run's own limit of cost; refused: the key, the
            model or the settings are wrong; unreachable: Gemini or the bucket has lasting trouble.
        reason: For people, with the remedy where there is one.
        until: Seconds since the epoch when it may go on, or None where waiting won't help.
    """

    kind: Literal["daily_quota", "budget", "refused", "unreachable"]
    reason: str
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Answers:
    """What became of the crops of one call.

    Attributes:
        entries: Crop digest to its answer; crops that were not answered are missing.
        stop: Why they are, if they are.
    """

    entries: dict[str, JournalEntry]
    stop: Stop | None


class Annotator(Protocol):
    """One annotator of a run, as an actor: its methods are called from other processes.

    Attributes:
        waits_for_all: Whether nothing is to be asked before all shards of the run are known.
    """

    waits_for_all: ClassVar[bool]

    async def begin(self) -> None:
        """A run begins. Not repeated where Ray restarts the actor in the middle of one."""

    async def collect(self, tasks: Sequence[DrainTask]) -> Stop | None:
        """Get the answers for all shards of the run ahead of `ask`; gives the reason if some are missing."""

    async def ask(self, crops: Sequence[AskedCrop]) -> Answers:
        """Answers to these crops, as far as there are any."""

    async def finish(self) -> None:
        """There is no more to ask."""
