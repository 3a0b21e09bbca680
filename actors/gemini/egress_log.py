"""Who was sent to Gemini: written before sending, so that what left is known even of a killed run."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from actors.gemini.answer_journal import crop_sha256
from actors.gemini.protocol import AskedCrop
from actors.storage import layout
from actors.storage.object_store import ObjectStore


@dataclass(frozen=True, slots=True)
class SentCrop:
    """One crop that left: `person` is its shard, frame and index, the digest that of the committed crop."""

    shard_id: str
    person: str
    crop_sha256: str


@dataclass(frozen=True, slots=True)
class Egress:
    """One request about to leave.

    Attributes:
        request: Its key; that of the journal's object with the answers.
        model: Answers.
        at: When, ISO 8601 in UTC.
        crops: Sent with it.
    """

    request: str
    model: str
    at: str
    crops: tuple[SentCrop, ...]


def egress_of(request_key: str, sent: Sequence[AskedCrop], model: str, now: float) -> Egress:
    """Describe a request that is about to be sent; `now` in seconds since the epoch."""
    crops = tuple(SentCrop(a.shard_id, a.crop.key, crop_sha256(a.crop.jpeg)) for a in sent)
    at = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
    return Egress(request_key, model, at, crops)


def record_egress(store: ObjectStore, egress: Egress) -> None:
    """Write the record, under a name of its own: a request sent twice has two.

    Raises:
        OSError: The store can't be written; the request must not be sent then.
    """
    name = f"{egress.request}.{uuid.uuid4().hex[:8]}"
    content = json.dumps(asdict(egress), ensure_ascii=False, indent=1).encode()
    store.write(layout.egress_path(egress.at[:10], name), content)
