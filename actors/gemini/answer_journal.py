"""The journal of Gemini's answers, which stores each paid answer before it is used.

It has one object per request and shard, until its entries are moved to the index of answers. An entry stays
valid as long as a crop with the same bytes needs an answer to the same question. This still holds after the
shard was detected again, and however the run that asked has ended.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from actors.errors import OutputError
from actors.gemini.question import Question
from actors.gemini.settings import ANNOTATOR
from actors.records import RETRYABLE, Annotation
from actors.storage import layout
from actors.storage.answer_index import AnswerIndex, KeptAnswer
from actors.storage.answers_in_flight import IndexName, move_to_index
from actors.storage.flat_listing import list_flat
from actors.storage.map_ahead import map_ahead
from actors.storage.object_store import ObjectStore
from actors.storage.rewriting import rewrite


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One person's outcome, with the share of the request that it cost.

    Attributes:
        crop_sha256: SHA-256 of the crop that was asked about.
        fingerprint: Fingerprint of the question. Entries of earlier versions have fingerprints that depend
            on the model too.
        annotation: The outcome and the attributes.
        model: Name of the model in the request.
        model_version: Version that the server reported, or the model's name if it reported none.
        prompt_sha256: SHA-256 of the prompt.
        request_id: The server's id of its response.
        input_tokens: The person's equal share of the request's input tokens.
        output_tokens: The person's equal share of the request's output tokens, thinking included.
        cost_usd: The person's equal share of the request's estimated cost.
        answers: Number of answers about the crop, of which this is the best, with the tokens and cost of all.
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
    answers: int = 1

    def for_an_equal_crop(self) -> JournalEntry:
        """Return the same answer for another crop with the same bytes, at no further cost."""
        return replace(self, input_tokens=0.0, output_tokens=0.0, cost_usd=0.0)

    def provenance(self) -> dict[str, object]:
        """Return the columns of the annotations table that tell the origin and the cost of the answer."""
        named = ("model", "model_version", "prompt_sha256", "input_tokens", "output_tokens", "cost_usd")
        return {name: getattr(self, name) for name in named}

    def as_kept(self, shard_id: str) -> KeptAnswer:
        """Return the entry as the index of answers has it. `shard_id` is the shard that it was asked for."""
        provenance = self.provenance() | {"request_id": self.request_id}
        if self.answers > 1:
            provenance["answers"] = self.answers
        return KeptAnswer(self.crop_sha256, shard_id, self.annotation, provenance)


def write_journal(
    store: ObjectStore, shard_id: str, request_key: str, entries: Sequence[JournalEntry]
) -> str:
    """Write the answers that one request brought for one shard, and return the path of the object.

    Raises:
        OSError: The store can't be written. The answers must not be used in this case.
    """
    path = layout.journal_path(shard_id, request_key)
    store.write(path, _content(entries))
    return path


def remove_from_journal(store: ObjectStore, digests: Collection[str], apply: bool) -> int:
    """Remove the answers about crops from the journal, and return how many these are.

    Args:
        store: The output.
        digests: Digests of the crops.
        apply: Whether to remove them. Otherwise, they are only counted.

    Raises:
        OutputError: An object is not a journal of answers.
        OSError: The store can't be read or written.
    """
    removed = 0
    for info in list_flat(store, layout.JOURNAL, _is_journal):
        entries = _read(store, info.path)
        left = [entry for entry in entries if entry.crop_sha256 not in digests]
        removed += len(entries) - len(left)
        if apply and len(left) < len(entries):
            rewrite(store, info.path, _content(left) if left else b"")
    return removed


def _is_journal(path: str) -> bool:
    """Return whether a path is that of a journal. Killed processes leave other files beside them."""
    return layout.shard_of_journal(path) is not None


def _content(entries: Sequence[JournalEntry]) -> bytes:
    return json.dumps([asdict(entry) for entry in entries], ensure_ascii=False, indent=1).encode()


def read_journal(
    store: ObjectStore, shard_id: str, question: Question, model: str | None = None
) -> dict[str, JournalEntry]:
    """Return a shard's paid answers to a question, by crop digest.

    Entries with the outcome `error` or `pending` are left out because they hold no answer. If a crop was
    answered twice, an `ok` takes precedence over other outcomes, then an answer of `model`, and then the one
    that was chosen from more answers. Between equals, the entry from the object whose name sorts first is
    used, so that every reader uses the same one.

    Raises:
        OutputError: An object is not a journal of answers.
        OSError: The store can't be read.
    """
    found: dict[str, JournalEntry] = {}
    paths = [o.path for o in store.list(layout.journal_folder(shard_id)) if _is_journal(o.path)]
    for entries in map_ahead(lambda path: _read(store, path), paths):
        for entry in entries:
            if not question.is_asked_by(entry.fingerprint) or entry.annotation.status in RETRYABLE:
                continue
            if not question.accepts(entry.model):
                continue
            known = found.setdefault(entry.crop_sha256, entry)
            if _rank(entry, model) < _rank(known, model):
                found[entry.crop_sha256] = entry
    return found


def _rank(entry: JournalEntry, model: str | None) -> tuple[bool, bool, int]:
    return entry.annotation.status != "ok", entry.model != model, -entry.answers


def find_paid(
    store: ObjectStore, shard_id: str, question: Question, model: str, digests: Collection[str]
) -> dict[str, JournalEntry]:
    """Return the paid answers to one question about crops, whichever shard they were asked for.

    An answer that was asked for another shard has no cost here.

    Args:
        store: The output.
        shard_id: The shard that has the crops.
        question: The question, and the models whose answers to it are accepted.
        model: The model whose answer is preferred if several have given one.
        digests: Digests of the crops.

    Raises:
        OutputError: An object is not a journal of answers.
        OSError: The store can't be read.
    """
    # Entries are in the index before they leave the journal, so none is overlooked in this order.
    journal = read_journal(store, shard_id, question, model)
    found = {digest: entry for digest, entry in journal.items() if digest in digests}
    for fingerprint in question.fingerprints:
        index = AnswerIndex(store, ANNOTATOR, fingerprint, listed_for_s=0)
        for digest, answers in index.find_all([c for c in digests if c not in found]).items():
            entries = [
                (kept.shard_id, _entry_of(kept, fingerprint))
                for kept in answers
                if question.accepts(kept.provenance["model"])
            ]
            if entries:
                of_shard, entry = min(entries, key=lambda found: _rank(found[1], model))
                found[digest] = entry if of_shard == shard_id else entry.for_an_equal_crop()
    return found


def _entry_of(kept: KeptAnswer, fingerprint: str) -> JournalEntry:
    return JournalEntry(
        crop_sha256=kept.crop_sha256,
        fingerprint=fingerprint,
        annotation=kept.annotation,
        **{"request_id": None, **kept.provenance},
    )


def file_journal(store: ObjectStore, paths: Iterable[str] | None = None) -> None:
    """Move entries of the journal to the index of answers, where a search by their crops finds them.

    This does no harm while their shards are still waiting, because annotators search both places.

    Args:
        store: The output.
        paths: Objects of the journal, or None for all of them.

    Raises:
        OutputError: An object is not a journal of answers.
        OSError: The store can't be read or written.
    """
    if paths is None:
        paths = (info.path for info in list_flat(store, layout.JOURNAL, _is_journal))

    def read(path: str) -> Iterator[tuple[IndexName, KeptAnswer]]:
        shard_id = layout.shard_of_journal(path)
        for entry in _read(store, path):
            if shard_id is not None and entry.annotation.status not in RETRYABLE:
                yield (ANNOTATOR, entry.fingerprint), entry.as_kept(shard_id)

    move_to_index(store, paths, read)


def _read(store: ObjectStore, path: str) -> list[JournalEntry]:
    try:
        content = store.read(path)
    except FileNotFoundError:  # Its entries have been moved to the index.
        return []
    try:
        return [
            JournalEntry(**{**row, "annotation": Annotation.from_json(row["annotation"])})
            for row in json.loads(content)
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise OutputError(
            f"{store.full(path)}: not a journal of answers; delete it, and Gemini is asked about its "
            "persons again"
        ) from error
