"""What a run of batch mode brought, and the requests of a recorded job, made again to join its answers."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from actors.errors import CropRestoreError
from actors.fingerprint import crop_sha256
from actors.gemini.answer_journal import JournalEntry, find_paid
from actors.gemini.api.packing import Crop, PackedRequest, pack
from actors.gemini.api.shown_crops import shown_crop
from actors.gemini.backlog.drain import ShardDrainer
from actors.gemini.batch_records import BatchRecord
from actors.gemini.protocol import AskedCrop, DrainTask, Stop
from actors.gemini.settings import GeminiSettings
from actors.log_lines import about_shard

log = logging.getLogger(__name__)


@dataclass(slots=True)
class BatchRun:
    """What batch mode did in a run.

    Attributes:
        unanswered: Entries of crops whose line brought an error, by crop digest.
        stop: Why no more jobs were submitted, if some requests were left.
    """

    unanswered: dict[str, JournalEntry] = field(default_factory=dict)
    stop: Stop | None = None


def rebuild(
    record: BatchRecord, drainer: ShardDrainer, settings: GeminiSettings
) -> tuple[list[PackedRequest], dict[str, AskedCrop]]:
    """Rebuild the requests of a job from the committed crops, except those whose crops are gone.

    Returns:
        The requests, and all crops of their shards by key.

    Raises:
        ShardUnavailableError: A shard of the job is no longer committed.
        OSError: The store can't be read.
    """
    asked: dict[str, AskedCrop] = {}
    for shard_id in sorted({crop.shard_id for request in record.requests for crop in request}):
        try:
            _, shard = drainer.load(DrainTask(shard_id))
        except CropRestoreError as error:
            with about_shard(shard_id):
                log.warning("batch mode skips shard %s: %s", shard_id, error)
            continue
        asked |= {
            crop.key: AskedCrop(shard_id, crop, None, shard.attempt) for _, crop in shard.crops_by_person()
        }
    here = {key: crop_sha256(found.crop.jpeg) for key, found in asked.items()}
    requests: list[PackedRequest] = []
    for crops in record.requests:
        if all(here.get(crop.key) == crop.crop_sha256 for crop in crops):
            shown = [Crop(c.key, shown_crop(asked[c.key].crop.jpeg, settings)) for c in crops]
            requests += pack(shown, len(shown), record.seed)
    return requests, asked


def shown_requests(crops: Iterable[AskedCrop], settings: GeminiSettings) -> list[PackedRequest]:
    """Make the pictures of crops and pack them into requests."""
    shown = (Crop(asked.crop.key, shown_crop(asked.crop.jpeg, settings)) for asked in crops)
    return list(pack(shown, settings.persons_per_request, settings.seed))


def known_answers(record: BatchRecord, drainer: ShardDrainer) -> dict[str, JournalEntry]:
    """Return the paid answers about the crops of a job, which asks about some of them once more."""
    of_shard: dict[str, set[str]] = defaultdict(set)
    for crop in (crop for crops in record.requests for crop in crops):
        of_shard[crop.shard_id].add(crop.crop_sha256)
    store, resolved = drainer.committer.store, drainer.resolved
    known: dict[str, JournalEntry] = {}
    for shard_id, digests in of_shard.items():
        known |= find_paid(store, shard_id, resolved.question, resolved.model, digests)
    return {digest: entry for digest, entry in known.items() if entry.annotation.status == "ok"}


def slices(crops: Iterable[AskedCrop], size: int) -> Iterator[list[AskedCrop]]:
    """Divide crops into groups of at most `size`."""
    group: list[AskedCrop] = []
    for crop in crops:
        group.append(crop)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
