"""What runs spend, kept in the ledger by run id, so that no restart and no second job forgets it."""

from __future__ import annotations

from dataclasses import dataclass

from actors.gemini.quota.ledger import Ledger, RunSpend

_KEPT_S = 7 * 86_400.0
"""How long a run that was interrupted is continued by the next one, and how long ended runs are kept."""

_LEASE_SHARE = 1 / 20
"""Share of what is left of a run's budget that one lease may cost."""


@dataclass(frozen=True, slots=True)
class RequestCost:
    """Cost of a request in US dollars before it is sent.

    Attributes:
        expected_usd: The most probable cost.
        most_usd: The cost of the longest answer that the request allows.
    """

    expected_usd: float = 0.0
    most_usd: float = 0.0

    def times(self, count: int) -> RequestCost:
        """Return the cost of several such requests."""
        return RequestCost(self.expected_usd * count, self.most_usd * count)


NO_COST = RequestCost()
"""The cost of a request for which no cost is counted."""


@dataclass(frozen=True, slots=True)
class SpendChange:
    """A change of what a run has spent; see `RunSpend` for the three amounts."""

    expected_usd: float = 0.0
    counted_usd: float = 0.0
    unknown_usd: float = 0.0

    def __add__(self, other: SpendChange) -> SpendChange:
        return SpendChange(
            self.expected_usd + other.expected_usd,
            self.counted_usd + other.counted_usd,
            self.unknown_usd + other.unknown_usd,
        )


def sent(cost: RequestCost) -> SpendChange:
    """Return the change when a request is about to be sent."""
    return SpendChange(cost.expected_usd, 0.0, cost.most_usd)


def answered(cost: RequestCost, usd: float) -> SpendChange:
    """Return the change when the server has counted the tokens of a request, which cost `usd`."""
    return SpendChange(0.0, usd, -cost.most_usd)


def unbilled(cost: RequestCost) -> SpendChange:
    """Return the change when a request has cost nothing, because it was not sent or the server refused it."""
    return SpendChange(-cost.expected_usd, 0.0, -cost.most_usd)


def timed_out(cost: RequestCost) -> SpendChange:
    """Return the change when nobody waits for an answer any more that the server may bill nevertheless."""
    return SpendChange(0.0, 0.0, cost.expected_usd - cost.most_usd)


def affordable(wanted: int, left_usd: float, cost: RequestCost) -> int:
    """Return how many requests a lease may have of those that are wanted.

    All of them may cost a small share of what is left of the budget, because after a kill a whole lease
    counts as spent. A run can exceed its budget by one request, so a lease always has one.
    """
    if not cost.most_usd:
        return wanted
    return max(1, min(wanted, int(left_usd * _LEASE_SHARE / cost.most_usd)))


def with_spend(ledger: Ledger, run_id: str, change: SpendChange, now: float) -> Ledger:
    """Return the ledger with a change of what a run has spent."""
    if not run_id or change == SpendChange():
        return ledger
    before = ledger.runs.get(run_id, RunSpend(output=""))
    # Rounding may leave a tiny negative rest.
    after = before.model_copy(
        update={
            "expected_usd": max(0.0, before.expected_usd + change.expected_usd),
            "counted_usd": before.counted_usd + change.counted_usd,
            "unknown_usd": max(0.0, before.unknown_usd + change.unknown_usd),
            "last_at": now,
        }
    )
    return ledger.model_copy(update={"runs": {**ledger.runs, run_id: after}})


def with_begun_run(ledger: Ledger, run_id: str, output: str, now: float) -> tuple[Ledger, str]:
    """Begin a run, or continue the run of the output that has not ended, and return its id.

    That run was killed or is still working; in both cases its cost limit applies to both together.
    """
    runs = {name: run for name, run in ledger.runs.items() if now - run.last_at < _KEPT_S}
    unended = [name for name, run in runs.items() if run.output == output and not run.ended]
    found = max(unended, key=lambda name: runs[name].last_at, default=run_id)
    begun = runs.get(found, RunSpend(output=output)).model_copy(update={"last_at": now})
    return ledger.model_copy(update={"runs": {**runs, found: begun}}), found


def with_ended_run(ledger: Ledger, run_id: str) -> Ledger:
    """Return the ledger after a run has ended by itself."""
    run = ledger.runs.get(run_id)
    if run is None:
        return ledger
    return ledger.model_copy(update={"runs": {**ledger.runs, run_id: run.model_copy(update={"ended": True})}})
