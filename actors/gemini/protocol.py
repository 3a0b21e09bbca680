"""What comes back from asking Gemini: answers, and why there are no more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from actors.gemini.answer_journal import JournalEntry


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
