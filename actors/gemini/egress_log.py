"""The log of crops sent to Gemini, written before sending so that it is complete even if a run is killed.

Each request first has an object of its own, because it must be recorded before it is sent and object stores
can't append. These objects are then merged into segments of many requests. A run that is killed while it
merges may leave a record in two places, with the same id. Persons appear as digests only.

A record is written while its request waits for the quota. If the run stops before the request is sent, the
record is deleted again; a run that is killed leaves it, so the log may name a request that was not sent.
"""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import groupby, islice
from typing import Any

from actors.errors import OutputError
from actors.fingerprint import crop_sha256
from actors.gemini.protocol import AskedCrop
from actors.storage import layout
from actors.storage.flat_listing import list_flat
from actors.storage.map_ahead import map_ahead
from actors.storage.object_store import ObjectStore

log = logging.getLogger(__name__)

_A_SEGMENT = 1000
"""Maximum number of requests in a segment, which then has about 1.5 MB with eight crops per request."""


@dataclass(frozen=True, slots=True)
class SentCrop:
    """One crop that is sent to Gemini.

    `person_sha256` is the digest of "shard/frame/index", and `crop_sha256` is that of the committed crop,
    which the table of persons has too.
    """

    person_sha256: str
    crop_sha256: str


@dataclass(frozen=True, slots=True)
class Egress:
    """One request that is about to be sent.

    Attributes:
        record: Unique id of this record. A request that is sent twice has two records.
        request: Key of the request, which also names the journal object with its answers. In batch mode it is
            the name of the job.
        model: Model that is asked.
        at: Time of the record, at most a few minutes before that of sending, ISO 8601 in UTC.
        crops: The crops in the request.
    """

    record: str
    request: str
    model: str
    at: str
    crops: tuple[SentCrop, ...]


def egress_of(request_key: str, sent: Sequence[AskedCrop], model: str, now: float) -> Egress:
    """Describe a request that is about to be sent. `now` is in seconds since the epoch."""
    crops = tuple(SentCrop(_digest(a.crop.key), crop_sha256(a.crop.jpeg)) for a in sent)
    at = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
    return Egress(uuid.uuid4().hex[:16], request_key, model, at, crops)


def record_egress(store: ObjectStore, egress: Egress) -> str:
    """Write the record of a request, and return the path of the object.

    Raises:
        OSError: The store can't be written. The request must not be sent in this case.
    """
    path = layout.egress_path(egress.at[:10], f"{egress.request}.{egress.record}")
    store.write(path, _line(asdict(egress)).encode())
    return path


def merge_egress(store: ObjectStore, unsent: Collection[str] = ()) -> None:
    """Merge the records of single requests into segments. Several runs may do so at the same time.

    Records of earlier versions, which name persons in clear, get digests. An object that can't be read stays.

    Args:
        store: The output.
        unsent: Paths of records that stay as they are, because their requests have not been sent.

    Raises:
        OSError: The store can't be read or written.
    """
    paths = (info.path for info in list_flat(store, layout.EGRESS) if info.path not in unsent)
    alone = (path for path in paths if layout.day_of_egress(path) is not None)
    for day, of_day in groupby(alone, layout.day_of_egress):
        while some := list(islice(of_day, _A_SEGMENT)):
            lines = dict(zip(some, map_ahead(lambda path: _read(store, path), some), strict=True))
            found = {path: line for path, line in lines.items() if line is not None}
            if found:
                store.write(layout.new_egress_segment(str(day)), "".join(found.values()).encode())
                store.delete(found)


def _read(store: ObjectStore, path: str) -> str | None:
    """Return the line of a record, or None if it was merged meanwhile or can't be read."""
    try:
        content = json.loads(store.read(path))
        record = path.rpartition("/")[2].split(".")[-2]
        return _line({"record": record, **content, "crops": [_without_name(c) for c in content["crops"]]})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError):
        log.warning("%s: not a record of what was sent; it stays as it is", store.full(path))
        return None


def remove_from_egress(
    store: ObjectStore, keys: Collection[str], digests: Collection[str], apply: bool
) -> int:
    """Remove persons from the records of what was sent, and return how many entries these are.

    A record still says how many crops its request had: the entries that were removed are counted as `erased`.

    Args:
        store: The output.
        keys: The persons, as "shard/frame/index".
        digests: Digests of their crops.
        apply: Whether to remove them. Otherwise, they are only counted.

    Raises:
        OutputError: A line is not a record of what was sent.
        OSError: The store can't be read or written.
    """
    persons = {*keys, *map(_digest, keys)}
    removed = 0
    for info in list_flat(store, layout.EGRESS, lambda path: path.endswith((".json", ".jsonl"))):
        lines = store.read(info.path).decode().splitlines()
        left, gone = [], 0
        for line in lines:
            try:
                content = json.loads(line)
                crops = content["crops"]
                others = [
                    crop
                    for crop in crops
                    if crop.get("person_sha256", crop.get("person")) not in persons
                    and crop["crop_sha256"] not in digests
                ]
                erased = len(crops) - len(others)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise OutputError(
                    f"{store.full(info.path)}: not a record of what was sent; it may name erased persons: "
                    "delete it, or restore it"
                ) from error
            if erased:
                content |= {"crops": others, "erased": content.get("erased", 0) + erased}
            gone += erased
            left.append(_line(content))
        removed += gone
        if apply and gone:
            store.write(info.path, "".join(left).encode())
    return removed


def _without_name(crop: dict[str, Any]) -> dict[str, Any]:
    if "person" not in crop:
        return crop
    return asdict(SentCrop(_digest(crop["person"]), crop["crop_sha256"]))


def _digest(person: str) -> str:
    return hashlib.sha256(person.encode()).hexdigest()


def _line(content: dict[str, Any]) -> str:
    return f"{json.dumps(content)}\n"
