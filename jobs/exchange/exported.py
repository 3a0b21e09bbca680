"""What was exported: the frames and persons as the reviewer sees them, kept beside the tool's files.

The comparison on the way back is with this, and not with the output of that day. So a value that the reviewer
left alone is no decision, even if a later run has answered otherwise.
"""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from actors.attribute import AttributeValue
from actors.attributes import AttributeSchema
from actors.corrections.decision import Box, Sampling
from actors.corrections.draw import Draw
from actors.errors import ConfigError
from actors.storage.object_store import ObjectStore
from jobs.exchange.seen import MALFORMED

EXPORTED = "exported.json"
FRAMES = "frames"
"""Folder of the exported frames."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ExportedPerson(_Part):
    """A person as exported.

    Attributes:
        person_id: Its id in the tool's files: shard, frame and number, as in the path of its document.
        bbox: The box as detected, which identifies the person; normalised to 0..1.
        box: The box as shown: the corrected one, or the detected one.
        detection: Attempt that wrote the table of persons.
        values: The final value of each attribute; None also if there is none.
        unanswered: The attributes of which nobody has given a value.
        sampling: How the person was chosen. Others in its frame are there by need.
        probability: Probability with which it was drawn, if at random.
    """

    person_id: str
    bbox: Box
    box: Box
    detection: str
    values: dict[str, AttributeValue]
    unanswered: tuple[str, ...] = ()
    sampling: Sampling = "need"
    probability: float | None = None


class ExportedFrame(_Part):
    """A frame as exported. Width and height are in pixels, as displayed."""

    file_name: str
    size_bytes: int
    shard_id: str
    frame_key: str
    width: int = Field(gt=0)
    height: int = Field(gt=0)
    persons: tuple[ExportedPerson, ...]


class Exported(_Part):
    """An export.

    Attributes:
        format: The tool's format.
        output: URI of the output that the persons are from.
        attributes: The attributes, as `AttributeSchema.to_json` gives them.
        draw: The random draw of the persons whose sampling is `random`. Exports of earlier versions lack it.
        frames: The frames, in the order of the tool's files.
        files: The SHA-256 of each of the tool's files by name, so that one that nobody has saved is known.
    """

    format: str
    output: str
    attributes: str
    draw: Draw | None = None
    frames: tuple[ExportedFrame, ...]
    files: dict[str, str] = Field(default_factory=dict)

    @field_validator("attributes")
    @classmethod
    def _is_schema(cls, text: str) -> str:
        try:
            AttributeSchema.from_json(text)
        except MALFORMED as error:
            raise ValueError(f"not the attributes of an export ({type(error).__name__})") from None
        return text

    @property
    def schema_of_attributes(self) -> AttributeSchema:
        """The attributes."""
        return AttributeSchema.from_json(self.attributes)

    def write(self, folder: ObjectStore) -> None:
        """Write it into the folder of the export."""
        folder.write(EXPORTED, self.model_dump_json(indent=1).encode())

    @classmethod
    def read(cls, folder: ObjectStore) -> Self:
        """Read it back.

        Raises:
            ConfigError: The folder has none, or it isn't what this version has written.
        """
        try:
            return cls.model_validate_json(folder.read(EXPORTED))
        except FileNotFoundError:
            raise ConfigError(
                f"--from {folder.uri}: there is no {EXPORTED}, which shopframe review export writes: put the "
                "tool's files back into the folder of the export"
            ) from None
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            raise ConfigError(
                f"--from {folder.uri}: {EXPORTED}: {problem['loc']}: {problem['msg']}; it was changed, or "
                "written by another version: export again"
            ) from error
