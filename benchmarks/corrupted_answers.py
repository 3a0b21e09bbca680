"""Answers of two annotators about people of demo scenes, whose errors and confidences follow a known law.

Scenes give the truth, without being painted. The corruption of a true value:

- How hard a person is to see is drawn once for each person of an episode, so all frames of it share it.
- The log-odds that an annotator is right about an attribute are its skill, less the hardness, plus noise of
  its own. So both annotators tend to be wrong about the same persons.
- A wrong answer is in most cases the value after the true one in the schema, otherwise any other one.
- The stated confidence is the true probability with its log-odds stretched and shifted, by annotator, so it
  is too sure of itself. A category of many values is less skewed than a boolean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.attribute import Attribute, AttributeValue
from actors.attribute_settings import SchemaSettings
from actors.attributes import AttributeSchema
from demo.drawing.cameras import CAMERA_NAMES
from demo.drawing.episodes import make_episode

SCHEMA = AttributeSchema(SchemaSettings())
ATTRIBUTES = tuple(a for a in SCHEMA if a.type != "integer" and a.name != "occlusion")
"""Attributes whose truth doesn't need a painted picture, and that are calibrated."""
SKILLS = {
    "smolvlm": {"gender": 2.4, "age_group": 0.9, "glasses": 1.9, "season_clothing": 2.8},
    "gemini": {"gender": 3.0, "age_group": 1.3, "glasses": 1.6, "season_clothing": 2.6},
}
"""Log-odds of being right about a person of middling hardness; 2.3 for attributes that are not named."""
_OTHER_SKILL = 2.3
_STRETCH = {"smolvlm": (1.8, 0.4), "gemini": (1.4, 0.9)}
_HARDNESS, _NOISE = 1.0, 1.0
_NEXT_SHARE = 0.7

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class People:
    """The n persons of some frames.

    Attributes:
        truth: [n] true values by attribute.
        clusters: [n] the episode of each person: one camera and minute.
        hardness: [n] how hard each is to see.
    """

    truth: Mapping[str, list[AttributeValue]]
    clusters: Ints
    hardness: Floats

    def __len__(self) -> int:
        return len(self.clusters)


@dataclass(frozen=True, slots=True)
class Answers:
    """What one annotator says about one attribute of n persons."""

    values: list[AttributeValue]
    confidence: Floats


@lru_cache(maxsize=4)
def people_of(seed: int, episodes: int) -> People:
    """Return the persons of the demo's scenes: four cameras in turn, four frames an episode."""
    truth: dict[str, list[AttributeValue]] = {a.name: [] for a in ATTRIBUTES}
    clusters, hardness = [], []
    for number in range(episodes):
        episode = make_episode(seed, number % len(CAMERA_NAMES), number // len(CAMERA_NAMES))
        of_track: dict[str, float] = {}
        rng = np.random.default_rng((seed, number, 14))
        for frame in episode.frames:
            for standing in frame:
                hard = of_track.setdefault(standing.track_id, float(rng.normal(0, _HARDNESS)))
                found = {**standing.appearance.attributes(), "facing_camera": standing.pose.facing}
                for name, listed in truth.items():
                    listed.append(found[name])
                clusters.append(number)
                hardness.append(hard)
    return People(truth, np.array(clusters, np.int64), np.array(hardness))


def answers_of(annotator: str, attribute: Attribute, people: People, seed: int) -> Answers:
    """Return an annotator's corrupted answers about an attribute."""
    place = list(SKILLS).index(annotator)
    rng = np.random.default_rng((seed, place, [a.name for a in ATTRIBUTES].index(attribute.name)))
    skill = SKILLS[annotator].get(attribute.name, _OTHER_SKILL)
    odds = skill - people.hardness + rng.normal(0, _NOISE, len(people))
    right = rng.random(len(people)) < 1 / (1 + np.exp(-odds))
    values: list[AttributeValue] = [value for value in attribute.values if value is not None]
    said: list[AttributeValue] = []
    for truth, is_right, how in zip(
        people.truth[attribute.name], right.tolist(), rng.random(len(people)).tolist(), strict=True
    ):
        at = values.index(truth)
        step = (
            1 if how < _NEXT_SHARE else 1 + int((how - _NEXT_SHARE) / (1 - _NEXT_SHARE) * (len(values) - 1))
        )
        said.append(truth if is_right else values[(at + step) % len(values)])
    stretch, shift = _STRETCH[annotator]
    stated = 1 / (1 + np.exp(-(stretch * odds + shift)))
    return Answers(said, stated)


def as_array(values: list[AttributeValue], attribute: Attribute) -> pa.Array:
    """Return values as Arrow has them in the consolidated table."""
    return pa.array(values, attribute.plain_arrow_type)
