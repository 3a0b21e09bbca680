"""A shard's part in Gemini's backlog: who of it still waits for an answer, and its table of answers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from actors.attributes import AttributeSchema
from actors.commit.pending import PENDING
from actors.gemini.answer_journal import JournalEntry, crop_sha256
from actors.gemini.api.answer import GeminiAnswer
from actors.gemini.api.packing import Crop
from actors.gemini.protocol import Person
from actors.gemini.settings import ANNOTATOR, GeminiCameras, ResolvedGemini
from actors.records import Annotation
from actors.shard_block import ShardBlock
from actors.storage.tables import annotations_table

_NOT_PERMITTED = "not sent: gemini.cameras does not permit its camera"


@dataclass(slots=True)
class PendingShard:
    """The kept persons of a shard as far as Gemini goes.

    Attributes:
        shard_id: Of which shard.
        persons: The kept rows of PERSONS_SCHEMA.
        cameras: Frame key to its camera.
        rows: Person to the row of the committed table that stays as it is.
        found: Person to an outcome that is known and not committed yet.
        is_committed: Whether the committed table answers the question that is asked now.
    """

    shard_id: str
    persons: pa.Table
    cameras: Mapping[str, str | None]
    rows: dict[Person, dict[str, object]] = field(default_factory=dict)
    found: dict[Person, JournalEntry] = field(default_factory=dict)
    is_committed: bool = False

    def waiting(self, chosen: Collection[Person] | None = None) -> list[tuple[Person, Crop]]:
        """Persons without an outcome, with their crops; of `chosen` alone, where given."""
        return [
            (person, crop)
            for person, crop in self.crops_by_person()
            if person not in self.rows and person not in self.found and (chosen is None or person in chosen)
        ]

    def take_answers(self, answers: Mapping[str, JournalEntry]) -> None:
        """Use answers, paid for just now or before: crop digest to its entry."""
        for person, crop in self.waiting():
            entry = answers.get(crop_sha256(crop.jpeg))
            if entry is not None:
                self.found[person] = entry

    def refuse_cameras(self, permitted: GeminiCameras, resolved: ResolvedGemini) -> None:
        """Give everybody whose crop may not be sent the outcome "blocked"."""
        for person, _ in self.waiting():
            if not permitted.permits(self.cameras.get(person[0])):
                self.found[person] = _unsent(Annotation("blocked", _NOT_PERMITTED), resolved)

    def table(self, schema: AttributeSchema, resolved: ResolvedGemini) -> pa.Table:
        """One row a kept person; those without an outcome are pending."""
        keys = self.persons.select(["frame_key", "person_index"]).to_pylist()
        pending = _unsent(PENDING, resolved)
        entries = [self.found.get((key["frame_key"], key["person_index"]), pending) for key in keys]
        table = annotations_table(
            self.persons,
            [entry.annotation for entry in entries],
            schema,
            [entry.provenance() for entry in entries],
            ANNOTATOR,
        )
        if not self.rows:
            return table
        rows = [self.rows.get((row["frame_key"], row["person_index"]), row) for row in table.to_pylist()]
        return pa.Table.from_pylist(rows, table.schema)

    def crops_by_person(self) -> list[tuple[Person, Crop]]:
        """All kept persons with their crops; a crop's key names its shard, frame and person."""
        columns = self.persons.select(["frame_key", "person_index", "crop"]).to_pylist()
        return [
            (
                (row["frame_key"], row["person_index"]),
                Crop(f"{self.shard_id}/{row['frame_key']}/{row['person_index']}", row["crop"]),
            )
            for row in columns
        ]


def pending_shard(block: ShardBlock, keep: Collection[str] | None) -> PendingShard:
    """What a loaded block says of Gemini's answers.

    Args:
        block: With frames, persons and committed annotations.
        keep: Outcomes of the committed table that stand; None where it answers another question
            (another model, prompt or schema), so that nothing of it does.

    Raises:
        ValueError: The block isn't loaded.
    """
    persons = block.kept_persons()
    if block.frames is None:
        raise ValueError(f"{block.task.shard.shard_id}: its frames are loaded before its backlog is known")
    frames = block.frames.select(["frame_key", "camera", "status"]).to_pylist()
    shard = PendingShard(
        shard_id=block.task.shard.shard_id,
        persons=persons,
        cameras={row["frame_key"]: row["camera"] for row in frames if row["status"] == "ok"},
    )
    committed = block.annotations.get(ANNOTATOR)
    if committed is not None and keep is not None:
        shard.is_committed = True
        shard.rows = {
            (row["frame_key"], row["person_index"]): row
            for row in committed.to_pylist()
            if row["status"] in keep
        }
    return shard


def answered(
    annotation: Annotation,
    crop_digest: str,
    answer: GeminiAnswer,
    share: int,
    cost_usd: float,
    resolved: ResolvedGemini,
) -> JournalEntry:
    """One person's part of what a request brought.

    Args:
        annotation: The outcome.
        crop_digest: Of the committed crop.
        answer: Of the request.
        share: Persons that the request's tokens and cost are shared by.
        cost_usd: Of the whole request.
        resolved: Model and prompt.
    """
    usage = answer.usage
    return JournalEntry(
        crop_sha256=crop_digest,
        fingerprint=resolved.fingerprint,
        annotation=annotation,
        model=resolved.model,
        model_version=answer.model_version or resolved.model,
        prompt_sha256=resolved.prompt_sha256,
        request_id=answer.response_id,
        input_tokens=usage.input / share,
        output_tokens=(usage.output + usage.thinking) / share,
        cost_usd=cost_usd / share,
    )


def _unsent(annotation: Annotation, resolved: ResolvedGemini) -> JournalEntry:
    """An outcome that no request brought."""
    return JournalEntry(
        crop_sha256="",
        fingerprint=resolved.fingerprint,
        annotation=annotation,
        model=resolved.model,
        model_version=resolved.model,
        prompt_sha256=resolved.prompt_sha256,
        request_id=None,
        input_tokens=0.0,
        output_tokens=0.0,
        cost_usd=0.0,
    )
