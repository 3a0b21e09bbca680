"""The annotate stage of the local annotator: annotate the kept persons of whole shards."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import joblib
import pyarrow as pa

from actors.attributes import AttributeSchema
from actors.errors import ShopframeError, WeightsError
from actors.fingerprint import crop_sha256
from actors.records import SETTLED, Annotation
from actors.reuse.groups import find_groups
from actors.reuse.rows import Rows, answered_themselves, inherited_row, with_group_names
from actors.reuse.settings import ReuseSettings
from actors.shard_block import ReportProgress, ShardBlock, ShardTask, report_nothing
from actors.smolvlm.engine import CropEngine, load_engine
from actors.smolvlm.settings import ResolvedSmolVLM, SmolVLMSettings
from actors.storage.answer_index import AnswerIndex, KeptAnswer
from actors.storage.answers_in_flight import read_in_flight, write_in_flight
from actors.storage.model_paths import kept_network, network_path
from actors.storage.object_store import ObjectStore
from actors.storage.store_errors import STORAGE_ERRORS, storage_error_text
from actors.storage.tables import annotations_table

log = logging.getLogger(__name__)

ANNOTATOR = "smolvlm"

KEEP_EVERY_S = 300.0
"""Seconds after which the answers of a shard in progress are written. A kill loses only newer ones."""


@dataclass
class ShardAnnotator:
    """Annotates shards with the local annotator, whose engine is loaded once.

    Attributes:
        settings: The annotator's settings.
        resolved: The model and prompt that the settings resolve to.
        schema: The attributes.
        annotators: Number of annotators that share a machine.
        output: The output, in which answers are found again.
        reuse: Which persons share one answer.
        keep_every_s: Seconds after which the answers of a shard in progress are written.
    """

    settings: SmolVLMSettings
    resolved: ResolvedSmolVLM
    schema: AttributeSchema
    annotators: int
    output: ObjectStore
    reuse: ReuseSettings = field(default_factory=ReuseSettings)
    keep_every_s: float = KEEP_EVERY_S

    @cached_property
    def _engine(self) -> CropEngine:
        return load_engine(self.settings, self.resolved, self.schema, self.threads, self._tower())

    def _tower(self) -> list[bytes] | None:
        network = self.resolved.tower_sha256
        if network is None:
            return None
        files = kept_network(self.output, network)
        if files is None:
            path = self.output.full(network_path(network, "bin"))
            raise WeightsError(f"{path}: missing or damaged; the same command makes it again")
        return files

    @property
    def threads(self) -> int:
        """Number of CPU threads for this worker: its part of the cores that its process may use."""
        cores: int = joblib.cpu_count()
        return max(1, cores // self.annotators)

    def load(self) -> None:
        """Load the engine now instead of with the first crop.

        Raises:
            ConfigError: The model can't be loaded on this machine, or a server refuses the question.
        """
        _ = self._engine

    def annotate(self, block: ShardBlock, report_progress: ReportProgress = report_nothing) -> ShardBlock:
        """Return the block with answers for its kept persons.

        If the task names outcomes to retry, only the persons with these outcomes are asked about again. A
        crop that was answered before, for whichever shard, is not asked about, unless the task forbids it.
        Where answers are shared, one person of each group is asked about, and the others inherit. Which ones
        these are depends on the shard alone, and not on the answers that are known.

        Raises:
            OSError: The output can't be read.
            OutputError: Answers in the output can't be read by this version.
            ServerUnavailableError: The server that runs the model doesn't answer.
        """
        persons = block.kept_persons()
        before = block.annotations.get(ANNOTATOR)
        retry = block.task.retry_outcomes
        kept: Rows = {}
        if retry is not None and before is not None:
            kept = {i: row for i, row in enumerate(before.to_pylist()) if row["status"] not in retry}
        if kept or self.reuse.is_on:
            table = self._answer_some(block, persons, kept, report_progress)
        else:
            table = self._answer(block.task, persons, report_progress)
        return block.with_answers(ANNOTATOR, table)

    def _answer_some(
        self, block: ShardBlock, persons: pa.Table, rows: Rows, report_progress: ReportProgress
    ) -> pa.Table:
        """Return the table of all kept persons, of whom some have their rows already."""
        groups = find_groups(block.frames, persons, self.reuse, self.reuse.reuse)
        waiting = set(range(persons.num_rows)) - rows.keys()
        people = persons.select(["shard_id", "frame_key", "person_index"]).to_pylist()
        table = self._answer(block.task, persons.slice(0, 0), report_progress)
        while waiting:
            step = groups.next_step(waiting, answered_themselves(rows))
            for person, (source, alike) in step.inherits.items():
                rows[person] = inherited_row(rows[source], people[person], groups.name(person), alike)
            report_progress(answers=len(step.inherits))
            asked = self._answer(block.task, persons.take(pa.array(step.asked, pa.int64())), report_progress)
            rows |= dict(zip(step.asked, asked.to_pylist(), strict=True))
            waiting -= {*step.inherits, *step.asked}
        return pa.Table.from_pylist(with_group_names(rows, groups), table.schema)

    def _answer(self, task: ShardTask, persons: pa.Table, report_progress: ReportProgress) -> pa.Table:
        crops = {crop_sha256(crop): crop for crop in persons["crop"].to_pylist()}
        shard_id = task.shard.shard_id
        answers: dict[str, Annotation] = {}
        if crops and task.recall:
            left = read_in_flight(self.output, ANNOTATOR, shard_id, self.resolved.fingerprint)
            answers = {digest: left[digest].annotation for digest in crops.keys() & left.keys()}
            known = self._index.find(crops.keys() - answers.keys())
            answers |= {digest: answer.annotation for digest, answer in known.items()}
        unknown = {digest: crop for digest, crop in crops.items() if digest not in answers}
        answers |= self._ask(shard_id, unknown, report_progress)
        in_order = [answers[crop_sha256(crop)] for crop in persons["crop"].to_pylist()]
        return annotations_table(persons, in_order, self.schema, self._provenance, grouped=self.reuse.is_on)

    def _ask(
        self, shard_id: str, crops: Mapping[str, bytes], report_progress: ReportProgress
    ) -> Mapping[str, Annotation]:
        if not crops:
            return {}
        digests = list(crops)
        keeper = _AnswerKeeper(self, shard_id)

        def answered(start: int, answers: Sequence[Annotation]) -> None:
            keeper.keep(zip(digests[start : start + len(answers)], answers, strict=True))
            report_progress(answers=len(answers))

        try:
            answers = self._engine.annotate(list(crops.values()), answered)
        except ShopframeError:
            keeper.write()
            raise
        return dict(zip(digests, answers, strict=True))

    @cached_property
    def _index(self) -> AnswerIndex:
        return AnswerIndex(self.output, ANNOTATOR, self.resolved.fingerprint)

    @property
    def _provenance(self) -> dict[str, object]:
        return {
            "model": self.resolved.model,
            "model_version": self.resolved.model_version,
            "prompt_sha256": self.resolved.prompt_sha256,
        }


@dataclass
class _AnswerKeeper:
    """Writes the answers of a shard in progress from time to time, and when its engine fails."""

    annotator: ShardAnnotator
    shard_id: str
    _new: list[KeptAnswer] = field(default_factory=list)
    _written_at: float = field(default_factory=time.monotonic)

    def keep(self, answers: Iterable[tuple[str, Annotation]]) -> None:
        made_by = self.annotator
        self._new += [
            KeptAnswer(digest, self.shard_id, annotation, made_by._provenance)
            for digest, annotation in answers
            if annotation.status in SETTLED
        ]
        if time.monotonic() - self._written_at >= made_by.keep_every_s:
            self.write()

    def write(self) -> None:
        """Write the answers that have not been written yet."""
        made_by = self.annotator
        if not self._new:
            return
        try:
            write_in_flight(made_by.output, ANNOTATOR, self.shard_id, made_by.resolved.fingerprint, self._new)
            self._new = []
        except STORAGE_ERRORS as error:
            # These answers are written with the next ones. If that fails too, so does the commit.
            log.warning("%s: answers can't be written: %s", self.shard_id, storage_error_text(error))
        self._written_at = time.monotonic()
