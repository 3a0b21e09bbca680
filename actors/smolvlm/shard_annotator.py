"""The annotate stage for SmolVLM: annotate the kept persons of whole shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from actors.attributes import AttributeSchema
from actors.records import Annotation
from actors.shard_block import ReportProgress, ShardBlock, report_nothing
from actors.smolvlm.crop_annotator import CropAnnotator
from actors.smolvlm.settings import ResolvedSmolVLM, SmolVLMSettings
from actors.storage.tables import annotations_table

ANNOTATOR = "smolvlm"


@dataclass
class ShardAnnotator:
    """Annotates shards with SmolVLM; the model is loaded once.

    Attributes:
        settings: The annotator's settings.
        resolved: The model and prompt that the settings resolve to.
        schema: The attributes.
        threads: Number of CPU threads for this worker.
    """

    settings: SmolVLMSettings
    resolved: ResolvedSmolVLM
    schema: AttributeSchema
    threads: int

    @cached_property
    def _model(self) -> CropAnnotator:
        import torch

        # Ray limits libraries to one thread per core that an actor reserves. On a CPU the model accounts for
        # almost all of a run's time, so it uses the threads of its whole node.
        torch.set_num_threads(self.threads)
        return CropAnnotator(self.settings, self.resolved, self.schema)

    def load(self) -> None:
        """Load the model now instead of with the first crop.

        Raises:
            WeightsError: The files can't be loaded on this machine.
        """
        _ = self._model

    def annotate(self, block: ShardBlock, report_progress: ReportProgress = report_nothing) -> ShardBlock:
        """Return the block with answers for its kept persons.

        If the task names outcomes to retry, only the persons with these outcomes are asked about again.
        """
        persons = block.kept_persons()
        before = block.annotations.get(ANNOTATOR)
        retry = block.task.retry_outcomes
        if retry is None or before is None:
            table = self._ask(persons, report_progress)
        else:
            again = pa.array([status in retry for status in before["status"].to_pylist()], pa.bool_())
            asked = self._ask(persons.filter(again), report_progress)
            table = _replace_rows(before, again.to_pylist(), asked)
        return block.with_answers(ANNOTATOR, table)

    def _ask(self, persons: pa.Table, report_progress: ReportProgress) -> pa.Table:
        crops: Sequence[bytes] = persons["crop"].to_pylist()
        answers: Sequence[Annotation] = []
        if crops:
            answers = self._model.annotate(crops, lambda count: report_progress(answers=count))
        provenance = {
            "model": self.resolved.model,
            "model_version": self.resolved.model_version,
            "prompt_sha256": self.resolved.prompt_sha256,
        }
        return annotations_table(persons, answers, self.schema, provenance)


def _replace_rows(before: pa.Table, replaced: Sequence[bool], asked: pa.Table) -> pa.Table:
    answers = iter(asked.to_pylist())
    rows = [next(answers) if again else row for again, row in zip(replaced, before.to_pylist(), strict=True)]
    return pa.Table.from_pylist(rows, asked.schema)
