"""One shard of Gemini's backlog: load it, ask about whoever waits, commit what is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from actors.attributes import AttributeSchema
from actors.commit.accounting import ShardSummary
from actors.commit.committed_shard import load_committed, shard_of
from actors.commit.committer import Committer
from actors.detect.restored_crops import CropRestorer
from actors.errors import PreconditionError, ShardError, ShopframeError
from actors.gemini.answer_journal import read_journal
from actors.gemini.backlog.claims import Claim
from actors.gemini.backlog.pending_shard import PendingShard, pending_shard
from actors.gemini.protocol import Answers, AskedCrop, DrainTask, Stop
from actors.gemini.settings import ANNOTATOR, GeminiCameras, ResolvedGemini
from actors.shard_block import ShardBlock, ShardTask
from actors.storage.commit_record import read_record
from actors.storage.store_errors import STORAGE_ERRORS, storage_error_text


@dataclass(frozen=True, slots=True)
class Drained:
    """What became of a shard of the backlog.

    Attributes:
        shard_id: Which shard.
        summary: Of its commit, or None if nothing was committed.
        answered: Persons that have an outcome since.
        waiting: Persons that still have none.
        stop: Why the stage stopped, if it did.
        error: What went wrong with this shard alone.
        claim: Whose it is: nothing was done unless it is "ours".
    """

    shard_id: str
    summary: ShardSummary | None = None
    answered: int = 0
    waiting: int = 0
    stop: Stop | None = None
    error: str | None = None
    claim: Claim = "ours"


@dataclass(frozen=True, slots=True)
class ShardDrainer:
    """What is needed to work off a shard.

    Attributes:
        committer: Of the output.
        schema: The attributes.
        resolved: Model and prompt.
        cameras: Whose crops may be sent.
        crop_restorer: Cuts crops that were not kept.
    """

    committer: Committer
    schema: AttributeSchema
    resolved: ResolvedGemini
    cameras: GeminiCameras
    crop_restorer: CropRestorer

    def load(self, drain_task: DrainTask) -> tuple[ShardBlock, PendingShard]:
        """The shard as it is committed, with what the journal knows beyond that.

        Raises:
            ShardError: The shard isn't committed, an object of it is missing, or crops that were not kept
                can't be cut again.
            OSError: The store can't be read.
        """
        found = read_record(self.committer.store, drain_task.shard_id)
        if found is None or found[0].state != "done":
            raise ShardError("it is no longer committed; run shopframe annotate again")
        record, etag = found
        task = ShardTask(shard_of(record), "annotate", record_etag=etag, attempt=record.attempt + 1)
        block, record = load_committed(ShardBlock(task), self.committer.store)
        block = self.crop_restorer.fill_crops(block, record)
        same = record.fingerprints.get(ANNOTATOR) == self.resolved.fingerprint
        waiting = pending_shard(block, drain_task.keep if same else None)
        waiting.refuse_cameras(self.cameras, self.resolved)
        answers = read_journal(self.committer.store, drain_task.shard_id, self.resolved.fingerprint)
        waiting.take_answers(
            {c: entry for c, entry in answers.items() if entry.annotation.status in drain_task.keep}
        )
        return block, waiting

    def drain(self, task: DrainTask, ask: Callable[[Sequence[AskedCrop]], Answers]) -> Drained:
        """Work off a shard; whatever goes wrong is its own trouble.

        It is committed when its last waiting person has an outcome; if only some were chosen, when
        these have. Nothing is committed where another run has done so already.
        """
        shard_id = task.shard_id
        try:
            block, shard = self.load(task)
            known = len(shard.rows)
            chosen = None if task.chosen is None else frozenset(task.chosen)
            waiting = shard.waiting(chosen)
            asked = ask([AskedCrop(shard_id, crop) for _, crop in waiting]) if waiting else Answers({}, None)
            shard.take_answers(asked.entries)
            left = len(shard.waiting())
            answered = shard.persons.num_rows - left - known
            summary = None
            if not shard.waiting(chosen) and (shard.found or not shard.is_committed):
                summary = self._commit(block, shard)
        except PreconditionError:
            return Drained(shard_id, error="its commit record was changed by another run; run again")
        except ShopframeError as error:
            return Drained(shard_id, error=str(error))
        except STORAGE_ERRORS as error:
            return Drained(shard_id, error=storage_error_text(error))
        return Drained(shard_id, summary, answered, left, asked.stop)

    def _commit(self, block: ShardBlock, shard: PendingShard) -> ShardSummary:
        return self.committer.commit(block.with_answers(ANNOTATOR, shard.table(self.schema, self.resolved)))
