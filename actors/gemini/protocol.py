"""The protocol between a run and its Gemini annotator, which online mode and batch mode implement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Protocol

from actors.gemini.answer_journal import JournalEntry
from actors.gemini.api.packing import Crop
from actors.gemini.api.traffic import Traffic
from actors.gemini.quota.ledger import RunSpend
from actors.gemini.quota.status import QuotaStatus
from actors.log_lines import LineFields
from actors.records import SETTLED, Outcome, RequestCounts

Person = tuple[str, int]
"""Frame key and person index, which identify a person within a shard."""


@dataclass(frozen=True, slots=True)
class DrainTask:
    """One shard of the backlog.

    Attributes:
        shard_id: Id of the shard.
        keep: Committed outcomes that are kept if they answer the same question.
        chosen: Persons to ask about, or None for all persons that still wait for an answer.
        persons: Number of persons that it asks about at most.
        first_only: Whether it asks only about one person of each group.
        later: Persons to ask about when the first ones of all shards were asked about.
    """

    shard_id: str
    keep: tuple[Outcome, ...] = SETTLED
    chosen: tuple[Person, ...] | None = None
    persons: int = 0
    first_only: bool = False
    later: tuple[Person, ...] = ()

    def rest(self, waiting: int) -> list[DrainTask]:
        """Return what is left for later when this is done, and so many persons of the shard wait."""
        if self.later:
            return [replace(self, chosen=self.later, persons=len(self.later), later=())]
        return [replace(self, persons=waiting, first_only=False)] if self.first_only and waiting else []


@dataclass(frozen=True, slots=True)
class AskedCrop:
    """One crop that Gemini should be asked about.

    Attributes:
        shard_id: Id of the crop's shard.
        crop: The crop as it was committed. Its key identifies the person.
        first: The first answer if it is asked about a second time, because that answer breaks a rule.
        attempt: Number of the attempt at the shard, for the log; None if it isn't known.
    """

    shard_id: str
    crop: Crop
    first: JournalEntry | None = None
    attempt: int | None = None

    @property
    def is_again(self) -> bool:
        """Whether it is asked about a second time."""
        return self.first is not None


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a run sends nothing more.

    Attributes:
        kind: `daily_quota`: the day's quota is spent until its reset. `budget`: the run has reached its own
            cost limit. `refused`: the key, the model or the settings are wrong. `invalid`: the answers are
            unusable. `unreachable`: Gemini or the bucket has a lasting problem.
        reason: Explanation for the user, with the remedy if there is one.
        until: Time at which sending may go on, in seconds since the epoch, or None if waiting won't help.
    """

    kind: Literal["daily_quota", "budget", "refused", "invalid", "unreachable"]
    reason: str
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an annotator is.

    Attributes:
        steps: Number that grows whenever a request was answered, refused or given up, or a job was looked at.
        wait_s: For how many more seconds the annotator waits on purpose.
        reason: Why it waits, as in `NotNow.reason`.
        in_flight: Number of requests that are being answered.
        traffic: What the annotator's process has sent.
        quota: The quota as the annotator has seen it last; None if it needs none.
        store_requests: What the annotator's process has asked of the stores.
        lines: Warnings and errors that the annotator has logged since it was last asked.
    """

    steps: int = 0
    wait_s: float = 0.0
    reason: str = ""
    in_flight: int = 0
    traffic: Traffic | None = None
    quota: QuotaStatus | None = None
    store_requests: RequestCounts = field(default_factory=dict)
    lines: tuple[LineFields, ...] = ()


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers to the crops of one call.

    Attributes:
        entries: Answers by crop digest. Crops without an answer are missing.
        stop: Why crops are missing, if the annotator has stopped.
    """

    entries: dict[str, JournalEntry]
    stop: Stop | None


class Annotator(Protocol):
    """The annotator of a run. It is a Ray actor, so other processes call its methods.

    Attributes:
        waits_for_all: Whether the annotator asks nothing before all shards of the run are known.
    """

    waits_for_all: ClassVar[bool]

    async def begin(self, run_id: str) -> None:
        """Begin or join a run. The call is not repeated if Ray restarts the actor during the run."""

    async def progress(self) -> Progress:
        """Return how far the annotator is."""

    async def collect(self, tasks: Sequence[DrainTask]) -> Stop | None:
        """Get the answers for all shards of the run before `ask`. Returns the reason if some are missing."""

    async def ask(self, crops: Sequence[AskedCrop]) -> Answers:
        """Return the answers to these crops, as far as there are any."""

    async def finish(self) -> RunSpend:
        """End the run when there is nothing more to ask, and return what it has spent."""
