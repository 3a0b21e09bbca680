"""The journal of Gemini's answers, which stores each paid answer before it is used.

It has one object per request and shard. An entry stays valid as long as a crop with the same bytes needs an
answer to the same question. This still holds after the shard was detected again, and however the run that
asked has ended.
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
        crop_sha256: SHA-256 of the crop that was asked about.
        fingerprint: Fingerprint of everything else that the answer depends on: the model, the prompt, the
            schema and the settings of the request.
        annotation: The outcome and the attributes.
        model: Name of the model in the request.
        model_version: Version that the server reported, or the model's name if it reported none.
        prompt_sha256: SHA-256 of the prompt.
        request_id: The server's id of its response.
        input_tokens: The person's equal share of the request's input tokens.
        output_tokens: The person's equal share of the request's output tokens, thinking included.
        cost_usd: The person's equal share of the request's estimated cost.
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
        """Return the same answer for another crop with the same bytes, at no further cost."""
        return replace(self, input_tokens=0.0, output_tokens=0.0, cost_usd=0.0)

    def provenance(self) -> dict[str, object]:
        """Return the columns of the annotations table that tell the origin and the cost of the answer."""
        named = ("model", "model_version", "prompt_sha256", "input_tokens", "output_tokens", "cost_usd")
        return {name: getattr(self, name) for name in named}


def crop_sha256(jpeg: bytes) -> str:
    """Return the digest that identifies a crop in the journal and in the egress log."""
    return hashlib.sha256(jpeg).hexdigest()


def write_journal(
    store: ObjectStore, shard_id: str, request_key: str, entries: Sequence[JournalEntry]
) -> None:
    """Write the answers that one request brought for one shard.

    Raises:
        OSError: The store can't be written. The answers must not be used in this case.
    """
    content = json.dumps([asdict(entry) for entry in entries], ensure_ascii=False, indent=1)
    store.write(layout.journal_path(shard_id, request_key), content.encode())


def read_journal(store: ObjectStore, shard_id: str, fingerprint: str) -> dict[str, JournalEntry]:
    """Return a shard's paid answers to the question with this fingerprint, by crop digest.

    Entries with the outcome `error` or `pending` are left out because they hold no answer. If a crop was
    answered twice, an `ok` takes precedence over other outcomes. Between equals, the entry from the object
    whose name sorts first is used, so that every reader uses the same one.

    Raises:
        OutputError: An object is not a journal of answers.
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
                f"{store.full(path)}: not a journal of answers; delete it, and Gemini is asked about its "
                "persons again"
            ) from error
        for entry in entries:
            if entry.fingerprint != fingerprint or entry.annotation.status in RETRYABLE:
                continue
            known = found.setdefault(entry.crop_sha256, entry)
            if entry.annotation.status == "ok" != known.annotation.status:
                found[entry.crop_sha256] = entry
    return found
