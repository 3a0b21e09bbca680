"""What was spent of a quota: one object in the bucket for each API key and model, shared by all jobs.

Times are seconds since the epoch; days are dates in Pacific time, where Google's daily quotas end at
midnight. The rules are in `rules`, the reading and writing in `quota`, beside this module.
"""

from __future__ import annotations

import hashlib
from datetime import date, datetime, time, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from actors.errors import OutputError
from actors.storage.object_store import ObjectStore

PACIFIC = ZoneInfo("America/Los_Angeles")
"""Where the day of a daily quota begins and ends (ai.google.dev/gemini-api/docs/rate-limits)."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class Lease(_Frozen):
    """Requests that one holder may send, counted as sent until it says how many it used.

    Attributes:
        lease_id: Unique.
        day: The day that they count for.
        sent_by: When the last of them is handed out at the latest.
        requests: How many.
        tokens: Their input tokens together: estimated, then corrected.
        open: Whether the holder may still return a part.
    """

    lease_id: str
    day: date
    sent_by: float
    requests: int = Field(ge=0)
    tokens: int = Field(ge=0)
    open: bool


class Ledger(_Frozen):
    """What was spent with one API key and model.

    Attributes:
        revision: Counts the writes. With `writer` it makes competing contents differ, by which a
            store without versions of its own tells them apart.
        writer: Who wrote it: a random name of a holder.
        days: Day to requests sent in it; today's and yesterday's.
        spent_day: The last day that the server declared spent.
        held_from: When the server last told to wait.
        held_until: When that ends.
        shrunk_at: When the limits a minute were last lowered.
        share: What share of the configured limits was left then.
        leases: Those in the window, and those that are open.
    """

    schema_version: Literal["1"] = "1"
    revision: int = 0
    writer: str = ""
    days: dict[date, NonNegativeInt] = Field(default_factory=dict)
    spent_day: date | None = None
    held_from: float = 0.0
    held_until: float = 0.0
    shrunk_at: float = 0.0
    share: float = Field(1.0, gt=0, le=1)
    leases: tuple[Lease, ...] = ()


def key_id_of(api_key: str) -> str:
    """A name for an API key that doesn't tell it: 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(api_key.encode()).hexdigest()[:16]


def pacific_day(now: float) -> date:
    """The day of a moment, in Pacific time."""
    return datetime.fromtimestamp(now, PACIFIC).date()


def reset_of(day: date) -> datetime:
    """The midnight that ends a day; days of the changes to and from summer time have 23 and 25 hours."""
    return datetime.combine(day + timedelta(days=1), time(), PACIFIC)


def read_ledger(store: ObjectStore, path: str) -> tuple[Ledger, str] | None:
    """A ledger and the version to pass to `ObjectStore.replace`, or None if there is none.

    Raises:
        OutputError: What is there is no ledger that this version can read.
    """
    try:
        content, etag = store.read_with_etag(path)
    except FileNotFoundError:
        return None
    try:
        return Ledger.model_validate_json(content), etag
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise OutputError(
            f"{store.full(path)}: not a quota ledger of this version: {where or 'content'}: "
            f"{problem['msg']}; what was spent today is not known: delete it after the next midnight in "
            "Pacific time, or at once if nothing was sent since the last"
        ) from error
