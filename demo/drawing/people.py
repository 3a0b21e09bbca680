"""The people in the demo's store: their attributes, drawn at random, and how figures show them.

How a figure shows gender and age is a drawing convention of this demo and says nothing about real
people. The cues are exaggerated and redundant, so that very small networks can read them. Skin, hair
and the colour of clothes don't depend on any attribute, except that hair turns grey with age.

    gender           male: short hair, straight top with two light stripes across; female: hair over the
                     shoulders, flared top with a row of light buttons, the same in front and back
    exact_age        hue of the sash across the torso, of the legs' clothes and of the trim of
                     headgear (see `age_colour`); hair turns grey from 45 on; under 18, the younger
                     the person, the smaller the figure
    glasses          thick black rims and pale lenses; from behind, a black strap with pale edges
    cap              round crown and a wide brim; from behind, a crown with a strap
    hood             pointed, with a wide rim around the face
    headscarf        round with white dots; falls onto the shoulders and hides the hair
    mask             white or pale blue from nose to chin; from behind, two ties of the same colour
    facing_camera    a face, or the back of the head
    season_clothing  summer: bare arms and legs, sandals; winter: a long coat with white trim, gloves,
                     boots, and a black and white scarf

Glasses and masks are worn over any headgear, so they are also visible from behind and the truth about
them holds there too.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

Colour = tuple[int, int, int]
"""Blue, green and red, each 0..255."""

HEADGEAR = ("cap", "hood", "headscarf")
"""Kinds of headgear. A person wears at most one."""

_AGE_GROUPS = (
    ("under 18", 6, 15),
    ("18 to 28", 20, 26),
    ("28 to 38", 30, 36),
    ("38 to 48", 40, 46),
    ("48 to 58", 50, 56),
    ("58 and over", 60, 80),
)
"""Name of each age group in the default schema, and the youngest and oldest age drawn for it. Ages close
to a limit are not drawn, because the true group would be debatable."""

_GROUP_LIMITS = (18, 28, 38, 48, 58)

_AGE_HUES = {
    6: 45, 15: 70, 20: 105, 26: 130, 30: 165, 36: 190, 40: 210, 46: 235, 50: 262, 56: 288, 60: 312, 80: 362,
}  # fmt: skip
"""Hue in degrees by age. Hues in between are interpolated linearly and change fastest between age groups."""

_SKIN: tuple[Colour, ...] = ((196, 219, 250), (158, 190, 232), (120, 158, 212), (82, 116, 172), (56, 82, 128))
_HAIR: tuple[Colour, ...] = ((30, 28, 30), (38, 54, 82), (52, 84, 128), (90, 160, 205), (40, 64, 150))
_GREY_HAIR: Colour = (222, 222, 222)
_CLOTHES: tuple[Colour, ...] = (
    (70, 70, 74), (120, 118, 112), (110, 82, 62), (72, 92, 118), (88, 104, 84), (92, 84, 112),
    (140, 150, 160),
)  # fmt: skip
_MASKS: tuple[Colour, ...] = ((250, 250, 250), (246, 226, 176))


@dataclass(frozen=True, slots=True)
class Appearance:
    """What a person looks like in every frame.

    Attributes:
        gender: "male" or "female".
        age: Age in years.
        headgear: "cap", "hood", "headscarf" or None.
        glasses: Whether the person wears glasses.
        mask: Whether the person wears a mask.
        season: Clothes for "summer" or "winter".
        skin: Colour of the skin.
        hair: Colour of the hair.
        clothes: Colour of the top or coat.
        headgear_colour: Colour of the headgear.
        mask_colour: Colour of the mask.
    """

    gender: str
    age: int
    headgear: str | None
    glasses: bool
    mask: bool
    season: str
    skin: Colour
    hair: Colour
    clothes: Colour
    headgear_colour: Colour
    mask_colour: Colour

    @property
    def stature(self) -> float:
        """Height as a share of an adult's height: 0.8 at the age of 6, 1 from 18 on."""
        return float(np.interp(self.age, (6, 18), (0.8, 1.0)))

    def attributes(self) -> dict[str, bool | str | int]:
        """Return the attributes of the default schema.

        `occlusion` and `facing_camera` are missing because they differ from frame to frame.
        """
        return {
            "gender": self.gender,
            "age_group": age_group(self.age),
            "exact_age": self.age,
            "glasses": self.glasses,
            **{name: self.headgear == name for name in HEADGEAR},
            "mask": self.mask,
            "season_clothing": self.season,
        }


def age_group(age: int) -> str:
    """Return the name of the age group in the default schema for an age in years."""
    return _AGE_GROUPS[int(np.searchsorted(_GROUP_LIMITS, age, side="right"))][0]


def age_colour(age: float) -> Colour:
    """Return the saturated colour for an age: yellow for children, then round the hues to red."""
    hue = float(np.interp(age, list(_AGE_HUES), list(_AGE_HUES.values()))) / 360
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, 0.95, 0.95)
    return _rounded(np.array([blue, green, red]) * 255)


def draw_appearance(rng: np.random.Generator) -> Appearance:
    """Draw one person at random.

    Each age group, gender and season is equally likely; 60 % of people wear headgear.
    """
    _, youngest, oldest = _AGE_GROUPS[rng.integers(len(_AGE_GROUPS))]
    age = int(rng.integers(youngest, oldest + 1))
    worn = int(rng.integers(5))
    grey = float(np.interp(age, (44, 64), (0, 1)))
    hair = np.array(_HAIR[rng.integers(len(_HAIR))]) * (1 - grey) + np.array(_GREY_HAIR) * grey
    return Appearance(
        gender=("male", "female")[rng.integers(2)],
        age=age,
        headgear=HEADGEAR[worn] if worn < len(HEADGEAR) else None,
        glasses=bool(rng.random() < 0.45),
        mask=bool(rng.random() < 0.45),
        season=("summer", "winter")[rng.integers(2)],
        skin=_varied(_SKIN[rng.integers(len(_SKIN))], rng),
        hair=_varied(_rounded(hair), rng),
        clothes=_varied(_CLOTHES[rng.integers(len(_CLOTHES))], rng),
        headgear_colour=_varied(_CLOTHES[rng.integers(len(_CLOTHES))], rng),
        mask_colour=_MASKS[rng.integers(len(_MASKS))],
    )


def _varied(colour: Colour, rng: np.random.Generator) -> Colour:
    return _rounded(np.array(colour) + rng.integers(-10, 11, 3))


def _rounded(colour: np.ndarray) -> Colour:
    blue, green, red = (int(value) for value in np.clip(np.rint(colour), 0, 255))
    return blue, green, red
