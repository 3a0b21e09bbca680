"""Annotators that answer after the commit: until then each kept person has a row that says pending."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from actors.attributes import AttributeSchema
from actors.records import Annotation
from actors.shard_block import ShardBlock
from actors.storage.tables import annotations_table

PENDING = Annotation("pending", "waits for its turn")


@dataclass(frozen=True, slots=True)
class PendingAnnotator:
    """An enabled annotator whose answers come later.

    Attributes:
        name: As in `annotations/<name>/`.
        model: The model that will be asked.
        prompt_sha256: Identity of what it will be asked.
    """

    name: str
    model: str
    prompt_sha256: str

    def provenance(self) -> dict[str, object]:
        """Columns of the annotations table for an outcome that no request brought."""
        return {
            "model": self.model,
            "model_version": self.model,
            "prompt_sha256": self.prompt_sha256,
            "input_tokens": 0.0,
            "output_tokens": 0.0,
            "cost_usd": 0.0,
        }


def with_pending(
    block: ShardBlock,
    annotator: PendingAnnotator,
    schema: AttributeSchema,
    committed: Mapping[str, str],
    asked: str,
) -> ShardBlock:
    """The block with a pending row for every kept person, unless the annotator's table is there already.

    Args:
        block: With its persons.
        annotator: Who answers later.
        schema: The attributes.
        committed: Stage to the fingerprint that the shard's tables were made with.
        asked: The annotator's fingerprint in this run; answers to another question don't count.
    """
    if annotator.name in block.annotations and committed.get(annotator.name) == asked:
        return block
    persons = block.kept_persons()
    rows = [PENDING] * persons.num_rows
    table = annotations_table(persons, rows, schema, annotator.provenance(), annotator.name)
    return block.with_answers(annotator.name, table)
