"""Outputs with gold labels: persons whose truth is known, and decisions about some of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from actors.corrections.decision import Decision
from actors.corrections.decision_log import append
from actors.records import Annotation
from actors.storage.commit_record import read_record
from actors.storage.object_store import ObjectStore
from jobs.settings import Settings
from tests.support.committed import Found, write_output
from tests.support.consolidating import consolidate

PER_FRAME = 4
"""Persons in a frame."""
START = datetime(2026, 5, 2, 9, tzinfo=UTC)


@dataclass(frozen=True)
class Labelled:
    """A person: what is true, what annotators answer, and where."""

    truth: Mapping[str, Any]
    answers: Mapping[str, Annotation]
    camera: str = "door"
    minute: int = 0


@dataclass
class GoldOutput:
    """An output of one shard per camera, consolidated, whose persons can be decided by number."""

    store: ObjectStore
    persons: list[Labelled]
    places: list[tuple[str, str, tuple[float, float, float, float]]]
    settings: Settings
    detections: dict[str, str] = field(default_factory=dict)

    def decision(self, number: int, attribute: str | None = "gender", **given: Any) -> Decision:
        """A decision about a person, by default the true value of an attribute."""
        shard_id, frame_key, bbox = self.places[number]
        if shard_id not in self.detections:
            found = read_record(self.store, shard_id)
            assert found is not None
            self.detections[shard_id] = found[0].detection
        base: dict[str, Any] = {
            "reviewer": "ann",
            "tool": "test",
            "shard_id": shard_id,
            "frame_key": frame_key,
            "bbox": bbox,
            "detection": self.detections[shard_id],
            "kind": "value",
            "attribute": attribute,
        }
        if attribute is not None:
            base["value"] = self.persons[number].truth[attribute]
        return Decision.model_validate(base | given)

    def decide(
        self, numbers: Iterable[int], probability: float | Callable[[int], float] | None, *attributes: str
    ) -> None:
        """Decide the true values of attributes, of persons drawn with a probability or, if None, by need."""
        made = []
        for number in numbers:
            chance = probability(number) if callable(probability) else probability
            sampling = {"sampling": "need" if chance is None else "random", "probability": chance}
            made += [self.decision(number, name, **sampling) for name in attributes or ("gender",)]
        append(self.store, made)

    def consolidate(self, **settings: Any) -> list[str]:
        """Bring the consolidated table up to date, and return the warnings."""
        changed = Settings.model_validate({**self.settings.as_dict(), **settings})
        return consolidate(self.store, of=changed).warnings()


def gold_output(store: ObjectStore, persons: list[Labelled], settings: Settings | None = None) -> GoldOutput:
    """Commit and consolidate persons, four in a frame, the frames of a camera in a shard."""
    settings = settings or Settings()
    shards: dict[str, dict[str, list[Found]]] = {}
    cameras, times, places = {}, {}, []
    for person in persons:
        frames = shards.setdefault(f"s-{person.camera}", {})
        key = f"{person.camera}-{person.minute}-0"
        while len(frames.get(key, ())) == PER_FRAME:
            key = f"{key.rpartition('-')[0]}-{int(key.rpartition('-')[2]) + 1}"
        in_frame = frames.setdefault(key, [])
        left = 0.2 * len(in_frame)
        box = (left, 0.1, left + 0.15, 0.2 + 0.1 * len(in_frame))
        in_frame.append(Found(box, score=0.9 - 0.1 * len(in_frame), answers=person.answers))
        cameras[key], times[key] = person.camera, START + timedelta(minutes=person.minute)
        places.append((f"s-{person.camera}", key, box))
    write_output(store, shards, settings, cameras=cameras, times=times)
    consolidate(store, of=settings)
    return GoldOutput(store, persons, places, settings)
