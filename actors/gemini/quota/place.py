"""Where the ledger of a project is kept, and other ledgers that may count requests of the same project."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from actors.gemini.quota.ledger import Ledger, pacific_day, read_ledger
from actors.gemini.quota.rules import current
from actors.storage import layout
from actors.storage.flat_listing import folders_in, names_in
from actors.storage.object_store import ObjectStore
from actors.storage.store_errors import STORAGE_ERRORS

_LOOKED_AT = 100
"""Number of folders of a bucket that are searched for ledgers of other outputs."""


@dataclass(frozen=True, slots=True)
class LedgerPlace:
    """The place of the ledger of a project and a model.

    Attributes:
        store: Store that holds the ledger, under `quota/`.
        path: Path of the ledger.
        earlier: Ledgers with requests of the same project that were counted elsewhere before, as stores and
            paths. They are not written any more.
    """

    store: ObjectStore
    path: str
    earlier: tuple[tuple[ObjectStore, str], ...] = ()

    @property
    def uri(self) -> str:
        """URI of the ledger."""
        return self.store.uri_of(self.path)

    def earlier_ledgers(self) -> dict[str, Ledger]:
        """Read the earlier ledgers, by their URIs. Raises the same errors as `read_ledger`."""
        found = {store.uri_of(path): read_ledger(store, path) for store, path in self.earlier}
        return {uri: read[0] for uri, read in found.items() if read is not None}


def ledger_place(output: ObjectStore, ledger_uri: str | None, project: str, model: str) -> LedgerPlace:
    """Return the place of a ledger.

    Args:
        output: The output. Its ledgers by API key, which version 0.1 kept, and the one that it had before
            `ledger_uri` was set are among the earlier ledgers.
        ledger_uri: Folder of the ledger, or None for the output.
        project: Name of the project.
        model: Name of the model as in the request.

    Raises:
        OSError: The output can't be listed.
    """
    path = layout.quota_path(project, model)
    store = output if ledger_uri is None else ObjectStore(ledger_uri, output.settings)
    names = [f"{layout.QUOTA}/{name}" for name in sorted(names_in(output, layout.QUOTA))]
    earlier = [name for name in names if layout.is_quota_of_key(name, model)]
    if store.uri != output.uri and path in names:
        earlier.append(path)
    return LedgerPlace(store, path, tuple((output, name) for name in earlier))


def with_earlier(ledger: Ledger, earlier: dict[str, Ledger], now: float) -> Ledger:
    """Return the ledger with the requests of earlier ledgers, unless it counts them already."""
    new = {uri: other for uri, other in earlier.items() if uri not in ledger.taken_over}
    if not new:
        return ledger
    days, leases, spent = dict(ledger.days), list(ledger.leases), {ledger.spent_day}
    for other in (current(found, now) for found in new.values()):
        for day, count in other.days.items():
            days[day] = days.get(day, 0) + count
        # Whoever holds one of these leases can't return a part of it here.
        leases += [lease.model_copy(update={"open": False}) for lease in other.leases]
        spent.add(other.spent_day)
    change = {
        "days": days,
        "leases": tuple(leases),
        "spent_day": max((day for day in spent if day is not None), default=None),
        "taken_over": (*ledger.taken_over, *new),
    }
    return ledger.model_copy(update=change)


def with_key(ledger: Ledger, key_id: str, now: float) -> Ledger:
    """Return the ledger with the day on which a key, given by its hash, was last used."""
    today = pacific_day(now)
    if not key_id or ledger.keys.get(key_id) == today:
        return ledger
    return ledger.model_copy(update={"keys": {**ledger.keys, key_id: today}})


def ledger_notice(output: ObjectStore, ledger_uri: str | None, project: str, model: str) -> str | None:
    """Return a warning if other outputs may spend the same quota without being counted here.

    Args:
        output: The output.
        ledger_uri: Folder of the ledger, or None for the output.
        project: Name of the project.
        model: Name of the model.
    """
    others = [] if ledger_uri is not None else other_ledgers(output, project, model)
    if not others:
        return None
    return (
        f"gemini.ledger_uri: {', '.join(others[:3])} counts requests to {model} of project {project} too, "
        f"apart from this output, so both may exceed the quota; set gemini.ledger_uri={others[0]} for all "
        "outputs of the project, or gemini.project to another name if it is another project"
    )


def other_ledgers(output: ObjectStore, project: str, model: str) -> list[str]:
    """Return the URIs of other outputs in the same bucket that count this project's requests on their own.

    On a disk, only the folder that contains the output is searched. Folders that can't be listed are skipped.
    """
    name = layout.quota_path(project, model)
    found = []
    for store, folder in islice(_neighbours(output), _LOOKED_AT):
        try:
            inside = [f"{layout.QUOTA}/{n}" for n in names_in(store, f"{folder}/{layout.QUOTA}")]
        except STORAGE_ERRORS:
            continue
        if any(path == name or layout.is_quota_of_key(path, model) for path in inside):
            found.append(store.uri_of(folder))
    return found


def _neighbours(output: ObjectStore) -> Iterable[tuple[ObjectStore, str]]:
    """Yield the folders beside the output, and on S3 those beside each folder that contains it."""
    store = output
    while True:
        if "/" not in store.root.strip("/"):
            return
        store, own = store.parent()
        try:
            names = folders_in(store, _LOOKED_AT)
        except STORAGE_ERRORS:
            return
        yield from ((store, name) for name in names if name != own)
        if not output.is_s3:
            return
