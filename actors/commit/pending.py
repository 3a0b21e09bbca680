"""Annotators that answer after the commit; until then, every kept person has a `pending` row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from actors.attributes import AttributeSchema
from actors.fingerprint import question_of
from actors.records import Annotation
from actors.reuse.groups import find_groups
from actors.reuse.settings import ReuseSettings
from actors.shard_block import ShardBlock
from actors.storage.tables import annotations_table

PENDING = Annotation("pending", "waits for its turn")


@dataclass(frozen=True, slots=True)
class PendingAnnotator:
    """An enabled annotator that answers after the commit.

    Attributes:
        name: Name of the annotator, as in `annotations/<name>/`.
        model: Name of the model that will be asked.
        prompt_sha256: SHA-256 of the prompt that will be sent.
        earlier: Fingerprints with which earlier versions recorded answers to the same question.
        not_asked: Names of the attributes that it is not asked about.
        reuse: Which persons are one.
        groups_within_s: Time within which a person is recognised again, in seconds; 0 for never.
    """

    name: str
    model: str
    prompt_sha256: str
    earlier: frozenset[str] = frozenset()
    not_asked: frozenset[str] = frozenset()
    reuse: ReuseSettings = field(default_factory=ReuseSettings)
    groups_within_s: float = 0.0

    def provenance(self) -> dict[str, object]:
        """Return the provenance columns of the annotations table for an outcome without a request."""
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
    """Return the block with a pending row for every kept person, unless it has the annotator's table already.

    Args:
        block: A block with its persons.
        annotator: The annotator that answers after the commit.
        schema: The attributes.
        committed: Fingerprints by stage with which the shard's tables were written.
        asked: The annotator's fingerprint in this run. A table with another fingerprint that isn't in
            `annotator.earlier` is replaced, because its answers belong to another prompt or schema.
    """
    known = {question_of(asked), *annotator.earlier}
    if annotator.name in block.annotations and question_of(committed.get(annotator.name, "")) in known:
        return block
    persons = block.kept_persons()
    rows = [PENDING] * persons.num_rows
    schema = schema.only([name for name in schema.names if name not in annotator.not_asked])
    groups = find_groups(block.frames, persons, annotator.reuse, annotator.groups_within_s)
    provenance = [annotator.provenance() | {"reuse_group": groups.name(i)} for i in range(len(rows))]
    is_grouped = annotator.groups_within_s > 0
    table = annotations_table(persons, rows, schema, provenance, annotator.name, is_grouped)
    return block.with_answers(annotator.name, table)
