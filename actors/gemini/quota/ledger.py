"""The ledger of a quota: one object per Gemini project and model, shared by all jobs and outputs.

Times are in seconds since the epoch. Days are dates in Pacific time, because Google's daily quotas reset
at midnight there. The neighbouring module `rules` contains the rules, and `quota` updates the ledger.
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
"""Time zone in which the day of a daily quota begins and ends (ai.google.dev/gemini-api/docs/rate-limits)."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class Lease(_Frozen):
    """Requests that one holder may send. All count as sent until the holder reports how many it used.

    Attributes:
        lease_id: Unique id.
        day: The day that the requests count for.
        sent_by: Latest time at which a request of the lease is handed out.
        requests: Number of requests.
        tokens: Total input tokens of the requests, first estimated and later corrected.
        open: Whether the holder may still return unused requests.
    """

    lease_id: str
    day: date
    sent_by: float
    requests: int = Field(ge=0)
    tokens: int = Field(ge=0)
    open: bool


class Breaker(_Frozen):
    """What is known about requests that were not answered. An answer resets all of it except the pace.

    Attributes:
        failures: Failures in a row: errors of the server and time-outs. Requests that were sent before the
            last failure was known count as two at most.
        refusals: Refusals (429) in a row, counted likewise, but as one at most.
        since: When the first of these failures was, or 0.
        at: When the last failure or refusal was.
        probe_until: Until when the answer to the only request in flight may come, or 0.
        pace: Share of the limits per minute that refusals without advice have left.
    """

    failures: int = Field(0, ge=0)
    refusals: int = Field(0, ge=0)
    since: float = 0.0
    at: float = 0.0
    probe_until: float = 0.0
    pace: float = Field(1.0, gt=0, le=1)


class RunSpend(_Frozen):
    """What one run has spent, in US dollars.

    Attributes:
        output: URI of the run's output.
        expected_usd: Cost of the requests as it was estimated before they were sent.
        counted_usd: Cost by the tokens that the server counted, whether or not the answers could be used.
        unknown_usd: The most that requests may have cost of which the server reported nothing: those in
            flight, those that timed out, and those of killed processes.
        last_at: When the run last changed this.
        ended: Whether the run has ended by itself. Otherwise, the next run of the output continues it.
    """

    output: str
    expected_usd: float = 0.0
    counted_usd: float = 0.0
    unknown_usd: float = 0.0
    last_at: float = 0.0
    ended: bool = False

    @property
    def spent_usd(self) -> float:
        """The most that the run can have spent."""
        return self.counted_usd + self.unknown_usd


class Ledger(_Frozen):
    """The requests and tokens counted for one project and model.

    Attributes:
        revision: Number of writes so far. Together with `writer`, it makes competing contents differ, so
            that a store without object versions can tell them apart.
        writer: Random name of the holder that wrote the ledger.
        days: Requests sent per day, for today and yesterday.
        spent_day: The last day whose quota the server reported as spent.
        held_from: When the server last told Shopframe to wait.
        held_until: When that wait ends.
        shrunk_at: When the limits per minute were last lowered.
        share: Share of the configured limits that was in force then.
        leases: Leases that are in the window or still open.
        breaker: Failures and refusals in a row.
        runs: What runs have spent, by run id.
        keys: For each API key that was used, as its hash, the last day on which it was.
        taken_over: URIs of the ledgers whose requests are counted here too.
    """

    schema_version: Literal["1", "2"] = "2"
    revision: int = 0
    writer: str = ""
    days: dict[date, NonNegativeInt] = Field(default_factory=dict)
    spent_day: date | None = None
    held_from: float = 0.0
    held_until: float = 0.0
    shrunk_at: float = 0.0
    share: float = Field(1.0, gt=0, le=1)
    leases: tuple[Lease, ...] = ()
    breaker: Breaker = Breaker()
    runs: dict[str, RunSpend] = Field(default_factory=dict)
    keys: dict[str, date] = Field(default_factory=dict)
    taken_over: tuple[str, ...] = ()


def key_id_of(api_key: str) -> str:
    """Return a name for an API key that doesn't reveal it: 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(api_key.encode()).hexdigest()[:16]


def pacific_day(now: float) -> date:
    """Return the date in Pacific time."""
    return datetime.fromtimestamp(now, PACIFIC).date()


def reset_of(day: date) -> datetime:
    """Return the midnight that ends a day.

    The days on which summer time begins and ends have 23 and 25 hours.
    """
    return datetime.combine(day + timedelta(days=1), time(), PACIFIC)


def read_ledger(store: ObjectStore, path: str) -> tuple[Ledger, str] | None:
    """Return the ledger and the etag to pass to `ObjectStore.replace`, or None if there is no ledger.

    Raises:
        OutputError: The object is not a ledger that this version of Shopframe can read.
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
            f"{problem['msg']}; the requests sent today are unknown: delete it after the next midnight in "
            "Pacific time, or now if nothing has been sent since the last midnight there"
        ) from error
