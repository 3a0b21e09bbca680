"""Crops to attributes: asks one annotator about the kept persons of whole shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from actors.attributes import AttributeSchema
from actors.records import Annotation
from actors.shard_block import ShardBlock
from actors.smolvlm.crop_annotator import CropAnnotator
from actors.smolvlm.settings import ResolvedSmolVLM, SmolVLMSettings
from actors.storage.tables import annotations_table

ANNOTATOR = "smolvlm"


@dataclass
class ShardAnnotator:
    """Asks SmolVLM; the model is loaded once.

    Attributes:
        settings: The annotator's settings, with its `resolved` model.
        schema: The attributes.
        threads: Of the CPU, for this worker.
    """

    settings: SmolVLMSettings
    resolved: ResolvedSmolVLM
    schema: AttributeSchema
    threads: int

    @cached_property
    def _model(self) -> CropAnnotator:
        import torch

        # Ray tells libraries to use one thread for each core that an actor reserves; on a CPU the
        # model is the whole cost of a run, so it takes what its node has.
        torch.set_num_threads(self.threads)
        return CropAnnotator(self.settings, self.resolved, self.schema)

    def load(self) -> None:
        """Load the model, which otherwise happens on the first crop.

        Raises:
            WeightsError: The files can't be loaded on this machine.
        """
        _ = self._model

    def annotate(self, block: ShardBlock) -> ShardBlock:
        """The block with answers about all kept persons, or about those whose outcome is to be retried."""
        persons = block.kept_persons()
        before = block.annotations.get(ANNOTATOR)
        retry = block.task.retry_outcomes
        if retry is None or before is None:
            table = self._ask(persons)
        else:
            again = pa.array([status in retry for status in before["status"].to_pylist()], pa.bool_())
            asked = self._ask(persons.filter(again))
            table = _replace_rows(before, again.to_pylist(), asked)
        return block.with_answers(ANNOTATOR, table)

    def _ask(self, persons: pa.Table) -> pa.Table:
        crops: Sequence[bytes] = persons["crop"].to_pylist()
        answers: Sequence[Annotation] = self._model.annotate(crops) if crops else []
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
