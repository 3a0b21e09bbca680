"""Answers that were paid for, durable before they are used.

One object a request and shard. An entry is good for as long as a crop of the same bytes is to be asked the
same: also after its shard was detected anew, and whatever became of the run that asked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from actors.errors import OutputError
from actors.records import RETRYABLE, Annotation
from actors.storage import layout
from actors.storage.map_ahead import map_ahead
from actors.storage.object_store import ObjectStore


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One person's outcome, with the share of the request that it cost.

    Attributes:
        crop_sha256: Of the crop that was asked about.
        fingerprint: Of all that the answer depends on besides: model, prompt, schema, how it was asked.
        annotation: The outcome.
        model: As it was asked for.
        model_version: As the server named it, or the model where it didn't.
        prompt_sha256: Of the prompt.
        request_id: The server's name of its response.
        input_tokens: The person's equal share of those of the request.
        output_tokens: Likewise, thinking included.
        cost_usd: Likewise, of the estimated price.
    """

    crop_sha256: str
    fingerprint: str
    annotation: Annotation
    model: str
    model_version: str
    prompt_sha256: str
    request_id: str | None
    input_tokens: float
    output_tokens: float
    cost_usd: float

    def for_an_equal_crop(self) -> JournalEntry:
        """The same answer for a crop of the same bytes, which cost nothing more."""
        return replace(self, input_tokens=0.0, output_tokens=0.0, cost_usd=0.0)

    def provenance(self) -> dict[str, object]:
        """Columns of the annotations table that say where the answer is from and what it cost."""
        named = ("model", "model_version", "prompt_sha256", "input_tokens", "output_tokens", "cost_usd")
        return {name: getattr(self, name) for name in named}


def crop_sha256(jpeg: bytes) -> str:
    """Identity of a crop, in the journal and in the record of what was sent."""
    return hashlib.sha256(jpeg).hexdigest()


def write_journal(
    store: ObjectStore, shard_id: str, request_key: str, entries: Sequence[JournalEntry]
) -> None:
    """Make the answers of one request about one shard durable.

    Raises:
        OSError: The store can't be written; the answers must not be used then.
    """
    content = json.dumps([asdict(entry) for entry in entries], ensure_ascii=False, indent=1)
    store.write(layout.journal_path(shard_id, request_key), content.encode())


def read_journal(store: ObjectStore, shard_id: str, fingerprint: str) -> dict[str, JournalEntry]:
    """Crop digest to the answer that was paid for, of a shard and a way of asking.

    Errors are left out: they brought no answer. Where a crop was answered twice, an "ok" counts before
    other outcomes, and then the entry of the object that is first by name, so that every reader takes the
    same.

    Raises:
        OutputError: An object is not one of the journal.
        OSError: The store can't be read.
    """
    found: dict[str, JournalEntry] = {}
    paths = [o.path for o in store.list(layout.journal_folder(shard_id))]
    for path, content in zip(paths, map_ahead(store.read, paths), strict=True):
        try:
            entries = [
                JournalEntry(**{**row, "annotation": Annotation(**row["annotation"])})
                for row in json.loads(content)
            ]
        except (ValueError, TypeError, KeyError) as error:
            raise OutputError(
                f"{store.full(path)}: not a journal of answers; delete it, and its persons are asked again"
            ) from error
        for entry in entries:
            if entry.fingerprint != fingerprint or entry.annotation.status in RETRYABLE:
                continue
            known = found.setdefault(entry.crop_sha256, entry)
            if entry.annotation.status == "ok" != known.annotation.status:
                found[entry.crop_sha256] = entry
    return found
