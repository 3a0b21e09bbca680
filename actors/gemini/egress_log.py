"""The log of crops sent to Gemini, written before sending so that it is complete even if a run is killed."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from actors.fingerprint import crop_sha256
from actors.gemini.protocol import AskedCrop
from actors.storage import layout
from actors.storage.object_store import ObjectStore


@dataclass(frozen=True, slots=True)
class SentCrop:
    """One crop that is sent to Gemini.

    `person` is made of its shard, frame and index, and `crop_sha256` is the digest of the committed crop.
    """

    shard_id: str
    person: str
    crop_sha256: str


@dataclass(frozen=True, slots=True)
class Egress:
    """One request that is about to be sent.

    Attributes:
        request: Key of the request, which also names the journal object with its answers. In batch mode it is
            the name of the job.
        model: Model that is asked.
        at: Time of sending, ISO 8601 in UTC.
        crops: The crops in the request.
    """

    request: str
    model: str
    at: str
    crops: tuple[SentCrop, ...]


def egress_of(request_key: str, sent: Sequence[AskedCrop], model: str, now: float) -> Egress:
    """Describe a request that is about to be sent. `now` is in seconds since the epoch."""
    crops = tuple(SentCrop(a.shard_id, a.crop.key, crop_sha256(a.crop.jpeg)) for a in sent)
    at = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
    return Egress(request_key, model, at, crops)


def record_egress(store: ObjectStore, egress: Egress) -> None:
    """Write the record under a unique name, so that a request that is sent twice has two records.

    Raises:
        OSError: The store can't be written. The request must not be sent in this case.
    """
    name = f"{egress.request}.{uuid.uuid4().hex[:8]}"
    content = json.dumps(asdict(egress), ensure_ascii=False, indent=1).encode()
    store.write(layout.egress_path(egress.at[:10], name), content)
