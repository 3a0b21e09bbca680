"""A shard's part in Gemini's backlog: its persons that wait for an answer, and its table of answers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import pyarrow as pa

from actors.attributes import AttributeSchema
from actors.commit.pending import PENDING
from actors.fingerprint import crop_sha256
from actors.gemini.answer_journal import JournalEntry
from actors.gemini.api.answer import GeminiAnswer
from actors.gemini.api.packing import Crop
from actors.gemini.camera_settings import GeminiCameras
from actors.gemini.protocol import Person
from actors.gemini.settings import ANNOTATOR, ResolvedGemini
from actors.records import NOT_PERMITTED, SETTLED, Annotation, is_denied
from actors.reuse.groups import CropGroups, Step, find_groups
from actors.reuse.rows import inherited_row, with_group_names
from actors.shard_block import ShardBlock
from actors.storage.tables import annotations_table


@dataclass(slots=True)
class PendingShard:
    """The kept persons of a shard, with their outcomes from Gemini.

    Attributes:
        shard_id: Id of the shard.
        persons: The kept persons, as rows of PERSONS_SCHEMA.
        cameras: Cameras by frame key.
        too_old: Keys of the frames whose persons are never sent, because they should have been erased.
        rows: Rows of the committed table that stay as they are, by person.
        older: Rows of the committed table that stay until another model has answered, by person.
        denied: Rows of the committed table of persons that were not sent because of their camera, by person.
        found: Outcomes that are known but not committed yet, by person.
        groups: The groups of persons who are one.
        shares_answers: Whether one person of a group is asked about, and the others inherit the answer.
        inherited: Persons that inherit, with the person whose answer it is and the similarity to it.
        is_committed: Whether the committed table answers the question that is asked now.
        replaces_answers: Whether it has answers to another question, which stay until all new ones are there.
        attempt: Number of the attempt that asks.
    """

    shard_id: str
    persons: pa.Table
    cameras: Mapping[str, str | None]
    too_old: frozenset[str] = frozenset()
    rows: dict[Person, dict[str, object]] = field(default_factory=dict)
    older: dict[Person, dict[str, object]] = field(default_factory=dict)
    denied: dict[Person, dict[str, object]] = field(default_factory=dict)
    found: dict[Person, JournalEntry] = field(default_factory=dict)
    groups: CropGroups = field(default_factory=lambda: CropGroups(()))
    shares_answers: bool = False
    inherited: dict[Person, tuple[Person, float]] = field(default_factory=dict)
    is_committed: bool = False
    replaces_answers: bool = False
    attempt: int = 0

    def waiting(self, chosen: Collection[Person] | None = None) -> list[tuple[Person, Crop]]:
        """Return the persons without an outcome and their crops, limited to `chosen` if it is given.

        Persons of frames that are too old don't wait: they stay `pending` until they are erased.
        """
        return [
            (person, crop)
            for person, crop in self.crops_by_person()
            if not self._has_outcome(person)
            and person[0] not in self.too_old
            and (chosen is None or person in chosen)
        ]

    def _has_outcome(self, person: Person) -> bool:
        return person in self.rows or person in self.found or person in self.inherited

    def questions(
        self, chosen: Collection[Person] | None = None, first_only: bool = False
    ) -> list[tuple[Person, Crop]]:
        """Return the waiting persons to ask about now and their crops.

        These are all of them, or one of each group if answers are shared or `first_only` is set. Persons of
        a group with an answer are then not asked about.
        """
        waiting = self.waiting(chosen)
        if not (self.shares_answers or first_only):
            return waiting
        asked = {self.groups.keys[at] for at in self._next_step({person for person, _ in waiting}).asked}
        return [(person, crop) for person, crop in waiting if person in asked]

    def inherit(self) -> None:
        """Give every waiting person the answer about another one of the group, if answers are shared."""
        if self.shares_answers:
            keys, step = self.groups.keys, self._next_step({person for person, _ in self.waiting()})
            for person, (source, similarity) in step.inherits.items():
                self.inherited[keys[person]] = keys[source], similarity

    def _next_step(self, waiting: Collection[Person]) -> Step:
        given = {person for person, row in self.rows.items() if row["status"] == "ok"}
        given |= {person for person, entry in self.found.items() if entry.annotation.status == "ok"}
        keys = self.groups.keys
        return self.groups.next_step(
            [at for at, key in enumerate(keys) if key in waiting],
            [at for at, key in enumerate(keys) if key in given],
        )

    def take_answers(self, answers: Mapping[str, JournalEntry]) -> None:
        """Use these answers, given by crop digest. They may be new or from the journal."""
        for person, crop in self.waiting():
            entry = answers.get(crop_sha256(crop.jpeg))
            if entry is not None:
                self.found[person] = entry

    def refuse_cameras(self, permitted: GeminiCameras, resolved: ResolvedGemini) -> None:
        """Give the outcome `denied` to every waiting person whose crop may not be sent."""
        for person, _ in self.waiting():
            if permitted.permits(self.cameras.get(person[0])):
                continue
            row = self.denied.get(person)
            if row is not None and row["status"] == "denied":
                self.rows[person] = row
            else:
                self.found[person] = _unsent(Annotation("denied", NOT_PERMITTED), resolved)

    def table(self, schema: AttributeSchema, resolved: ResolvedGemini) -> pa.Table:
        """Return the table with one row per kept person. Persons without an outcome are `pending`."""
        keys = self.persons.select(["frame_key", "person_index"]).to_pylist()
        pending = _unsent(PENDING, resolved)
        entries = [self.found.get((key["frame_key"], key["person_index"]), pending) for key in keys]
        table = annotations_table(
            self.persons,
            [entry.annotation for entry in entries],
            schema,
            [entry.provenance() for entry in entries],
            ANNOTATOR,
            resolved.groups_within_s > 0,
        )
        kept = {person: row for person, row in self.older.items() if person not in self.found} | self.rows
        if not kept and resolved.groups_within_s == 0:
            return table
        own = {(row["frame_key"], row["person_index"]): row for row in table.to_pylist()} | kept
        rows = {at: own[key] for at, key in enumerate(self.groups.keys)}
        for at, key in enumerate(self.groups.keys):
            if key in self.inherited:
                source, similarity = self.inherited[key]
                rows[at] = inherited_row(own[source], own[key], self.groups.name(at), similarity)
        return pa.Table.from_pylist(with_group_names(rows, self.groups), table.schema)

    def crops_by_person(self) -> list[tuple[Person, Crop]]:
        """Return all kept persons with their crops. A crop's key names its shard, frame and person."""
        columns = self.persons.select(["frame_key", "person_index", "crop"]).to_pylist()
        return [
            (
                (row["frame_key"], row["person_index"]),
                Crop(f"{self.shard_id}/{row['frame_key']}/{row['person_index']}", row["crop"]),
            )
            for row in columns
        ]


def pending_shard(
    block: ShardBlock,
    keep: Collection[str] | None,
    resolved: ResolvedGemini,
    retained_since: datetime | None = None,
) -> PendingShard:
    """Return the pending shard of a loaded block.

    Args:
        block: Block with its frames, persons and committed annotations.
        keep: Outcomes of the committed table that are kept, or None if the table answers another question
            (another prompt or schema), so that nothing of it is kept.
        resolved: The question, the models whose answers to it are accepted, and which persons are one.
        retained_since: Persons of frames before this time are never sent.

    Raises:
        ValueError: The block isn't loaded.
    """
    question = resolved.question
    persons = block.kept_persons()
    if block.frames is None:
        raise ValueError(f"{block.task.shard.shard_id}: its frames must be loaded before its backlog is read")
    frames = block.frames.select(["frame_key", "camera", "captured_at", "status"]).to_pylist()
    shard = PendingShard(
        shard_id=block.task.shard.shard_id,
        persons=persons,
        cameras={row["frame_key"]: row["camera"] for row in frames if row["status"] == "ok"},
        too_old=frozenset(
            row["frame_key"]
            for row in frames
            if retained_since is not None
            and row["captured_at"] is not None
            and row["captured_at"] < retained_since
        ),
        groups=find_groups(block.frames, persons, resolved.reuse, resolved.groups_within_s),
        shares_answers=resolved.reuse.is_on,
        attempt=block.task.attempt,
    )
    committed = block.annotations.get(ANNOTATOR)
    if committed is not None and keep is None:
        shard.replaces_answers = set(committed["status"].to_pylist()) != {"pending"}
    if committed is not None and keep is not None:
        shard.is_committed = True
        for row in committed.to_pylist():
            person = (row["frame_key"], row["person_index"])
            if is_denied(row["status"], row["reason"]):
                shard.denied[person] = row
            elif not question.accepts(row["model"]):
                if row["status"] in SETTLED:
                    shard.older[person] = row
            elif row["status"] in keep:
                shard.rows[person] = row
    return shard


def answered(
    annotation: Annotation,
    crop_digest: str,
    answer: GeminiAnswer,
    share: int,
    cost_usd: float,
    resolved: ResolvedGemini,
) -> JournalEntry:
    """Return the journal entry of one person in a request.

    Args:
        annotation: The outcome and the attributes.
        crop_digest: SHA-256 of the committed crop.
        answer: Answer to the whole request.
        share: Number of persons among which the request's tokens and cost are divided.
        cost_usd: Cost of the whole request.
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
    """Return the entry of an outcome that is not from a request."""
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
