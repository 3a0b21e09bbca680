"""Work off one shard of Gemini's backlog: load it, ask about its waiting persons, commit the answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from actors.attributes import AttributeSchema
from actors.commit.accounting import ShardSummary
from actors.commit.committed_shard import load_committed, shard_from_record
from actors.commit.committer import Committer
from actors.detect.restored_crops import CropRestorer
from actors.errors import PreconditionError, ShardUnavailableError, ShopframeError
from actors.fingerprint import crop_sha256
from actors.gemini.answer_journal import JournalEntry, find_paid
from actors.gemini.api.packing import Crop
from actors.gemini.backlog.claims import Claim
from actors.gemini.backlog.pending_shard import PendingShard, pending_shard
from actors.gemini.camera_settings import GeminiCameras
from actors.gemini.protocol import Answers, AskedCrop, DrainTask, Person, Stop
from actors.gemini.second_answers import broken_rules
from actors.gemini.settings import ANNOTATOR, ResolvedGemini
from actors.log_lines import LineFields, about_shard
from actors.records import Outcome, RequestCounts
from actors.shard_block import ShardBlock, ShardTask
from actors.storage.commit_record import read_record
from actors.storage.store_errors import STORAGE_ERRORS, storage_error_text

log = logging.getLogger(__name__)

Ask = Callable[[Sequence[AskedCrop]], Awaitable[Answers]]
"""Asks about crops, as `Annotator.ask` does."""


@dataclass(frozen=True, slots=True)
class Drained:
    """The result of working off a shard of the backlog.

    Attributes:
        shard_id: Id of the shard.
        summary: Summary of the shard's commit, or None if nothing was committed.
        answered: Number of persons that got an outcome.
        waiting: Number of persons that still have no outcome.
        stop: Why the stage stopped, if it did.
        error: What went wrong with this shard alone.
        claim: Result of claiming the shard. Nothing was done unless it is `ours`.
        store_requests: What was asked of the stores meanwhile.
        lines: Warnings and errors that were logged meanwhile, about any shard.
    """

    shard_id: str
    summary: ShardSummary | None = None
    answered: int = 0
    waiting: int = 0
    stop: Stop | None = None
    error: str | None = None
    claim: Claim = "ours"
    store_requests: RequestCounts = field(default_factory=dict)
    lines: tuple[LineFields, ...] = ()


@dataclass(frozen=True, slots=True)
class ShardDrainer:
    """Works off shards of the backlog.

    Attributes:
        committer: Committer of the output.
        schema: The attributes.
        resolved: Model and prompt.
        cameras: Cameras whose crops may be sent.
        crop_restorer: Cuts out again the crops that were not kept.
        reask_violations: Whether to ask once more about persons whose answer breaks a rule of the schema.
        in_jobs: Digests of the crops that are in open batch jobs, about which nobody else is asked.
    """

    committer: Committer
    schema: AttributeSchema
    resolved: ResolvedGemini
    cameras: GeminiCameras
    crop_restorer: CropRestorer
    reask_violations: bool = False
    in_jobs: frozenset[str] = frozenset()

    def load(self, drain_task: DrainTask) -> tuple[ShardBlock, PendingShard]:
        """Load a committed shard and the answers to its crops that are paid but not committed with it.

        Raises:
            ShardUnavailableError: The shard isn't committed, one of its objects is missing, or crops that
                were not kept can't be cut out again.
            OSError: The store can't be read.
        """
        found = read_record(self.committer.store, drain_task.shard_id)
        if found is None or found[0].state != "done":
            raise ShardUnavailableError("it is no longer committed; run shopframe annotate again")
        record = found[0]
        task = ShardTask(
            shard_from_record(record), "annotate", replaces=record.attempt_id, attempt=record.attempt + 1
        )
        block, record = load_committed(ShardBlock(task), self.committer.store)
        block = self.crop_restorer.fill_crops(block, record)
        question = self.resolved.question
        waiting = pending_shard(
            block,
            self._kept(drain_task, record.fingerprints.get(ANNOTATOR)),
            self.resolved,
            self.committer.settings.retained_since(),
        )
        digests = {crop_sha256(crop.jpeg) for _, crop in waiting.waiting()}
        answers = find_paid(self.committer.store, drain_task.shard_id, question, self.resolved.model, digests)
        waiting.take_answers(
            {c: entry for c, entry in answers.items() if entry.annotation.status in drain_task.keep}
        )
        # Answers that are known are used whatever the camera, because nothing is sent for them.
        waiting.refuse_cameras(self.cameras, self.resolved)
        waiting.inherit()
        return block, waiting

    def _kept(self, task: DrainTask, committed: str | None) -> tuple[Outcome, ...] | None:
        """Return the committed outcomes that are kept, or None if they answer another question."""
        question = self.resolved.question
        if not question.is_asked_by(committed):
            return None
        if question.shares_as(committed):
            return task.keep
        return tuple(outcome for outcome in task.keep if outcome != "inherited")

    async def drain(self, task: DrainTask, ask: Ask) -> Drained:
        """Work off a shard. An error concerns this shard alone and is returned in `Drained.error`.

        Loading and committing happen in threads of the running loop.

        The shard is committed with all answers that came. Answers to a new prompt or schema are committed
        when all persons have one or, if only some persons were chosen, when all of these have one. Nothing is
        committed if another run has committed the shard already.
        """
        shard_id = task.shard_id
        try:
            block, shard = await asyncio.to_thread(self.load, task)
            with about_shard(shard_id, shard.attempt):
                return await self._work_off(block, shard, task, ask)
        except PreconditionError:
            return Drained(shard_id, error="its commit record was changed by another run; run again")
        except ShopframeError as error:
            return Drained(shard_id, error=str(error))
        except STORAGE_ERRORS as error:
            return Drained(shard_id, error=storage_error_text(error))

    async def _work_off(self, block: ShardBlock, shard: PendingShard, task: DrainTask, ask: Ask) -> Drained:
        chosen = None if task.chosen is None else frozenset(task.chosen)
        stop = await self._ask_all(shard, task, ask)
        left = len(shard.waiting())
        answered = sum(entry.annotation.status != "denied" for entry in shard.found.values())
        answered += len(shard.inherited)
        summary = None
        if shard.waiting(chosen):
            is_due = answered > 0 and not shard.replaces_answers
        else:
            is_due = bool(shard.found or shard.inherited) or not shard.is_committed
        if is_due:
            summary = await asyncio.to_thread(self._commit, block, shard)
        log.info("Gemini: %d persons answered, %d wait", answered, left)
        return Drained(shard.shard_id, summary, answered, left, stop)

    async def _ask_all(self, shard: PendingShard, task: DrainTask, ask: Ask) -> Stop | None:
        """Ask about the persons of a task, and return why some got no answer.

        Where answers are shared, the next one of a group is asked about if an answer is of no use.
        """
        chosen = None if task.chosen is None else frozenset(task.chosen)
        while True:
            questions = shard.questions(chosen, task.first_only)
            crops = [
                AskedCrop(shard.shard_id, crop, attempt=shard.attempt)
                for _, crop in questions
                if not self.in_jobs or crop_sha256(crop.jpeg) not in self.in_jobs
            ]
            asked = await ask(crops) if crops else Answers({}, None)
            entries = asked.entries
            if self.reask_violations and asked.stop is None:
                entries = entries | await self._second_answers(shard, questions, entries, ask)
            shard.take_answers(entries)
            shard.inherit()
            if asked.stop is not None or not entries or not shard.shares_answers:
                return asked.stop

    async def _second_answers(
        self,
        shard: PendingShard,
        waiting: Sequence[tuple[Person, Crop]],
        first: Mapping[str, JournalEntry],
        ask: Ask,
    ) -> dict[str, JournalEntry]:
        """Ask once more about persons whose answer breaks a rule.

        Returns:
            The better one of both answers, with the cost of both, for the persons with a second answer.
        """
        broken = {c: entry for c, entry in first.items() if broken_rules(entry.annotation, self.schema)}
        crops = {digest: crop for _, crop in waiting if (digest := crop_sha256(crop.jpeg)) in broken}
        if not crops:
            return {}
        asked = [AskedCrop(shard.shard_id, c, broken[d], shard.attempt) for d, c in crops.items()]
        return (await ask(asked)).entries

    def _commit(self, block: ShardBlock, shard: PendingShard) -> ShardSummary:
        return self.committer.commit(block.with_answers(ANNOTATOR, shard.table(self.schema, self.resolved)))
