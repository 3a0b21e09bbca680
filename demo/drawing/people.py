"""Who walks through the demo's store: attributes drawn at random, and the look that tells them.

How a figure shows its gender and age is a drawing convention of this demo and says nothing about
people: cues are exaggerated, redundant and chosen so that very small networks can read them. Skin,
hair and the colour of clothes are independent of every attribute, except that hair greys with age.

    gender           male: short hair, straight top with two light stripes across; female: hair over the
                     shoulders, flared top with a row of light buttons, front and back alike
    exact_age        hue of the sash across the torso, of the legs' clothes and of the trim of
                     headgear, see `age_colour`; hair greys from 45 on; under 18 smaller the younger
    glasses          thick black rims and pale lenses; from behind a black strap with pale edges
    cap              round crown and a wide brim; from behind a crown with a strap
    hood             pointed, with a wide rim about the face
    headscarf        round, white dots, falls onto the shoulders and hides the hair
    mask             white or pale blue from nose to chin; from behind two ties of the same colour
    facing_camera    a face, or the back of the head
    season_clothing  summer: bare arms and legs, sandals; winter: a long coat with white trim, gloves,
                     boots, and a scarf in black and white

Glasses and mask are worn over whatever is on the head, so they are seen, and true, from behind too.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

Colour = tuple[int, int, int]
"""Blue, green, red, 0..255 each."""

HEADGEAR = ("cap", "hood", "headscarf")
"""Exclude each other: nobody wears two."""

_AGE_GROUPS = (
    ("under 18", 6, 15),
    ("18 to 28", 20, 26),
    ("28 to 38", 30, 36),
    ("38 to 48", 40, 46),
    ("48 to 58", 50, 56),
    ("58 and over", 60, 80),
)
"""Name in the default schema, youngest and oldest age drawn: none near a limit, where truth would be moot."""

_GROUP_LIMITS = (18, 28, 38, 48, 58)

_AGE_HUES = {
    6: 45, 15: 70, 20: 105, 26: 130, 30: 165, 36: 190, 40: 210, 46: 235, 50: 262, 56: 288, 60: 312, 80: 362,
}  # fmt: skip
"""Age to hue in degrees, linear between; steps between the age groups."""

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
    """What a figure looks like wherever it is seen.

    Attributes:
        gender: male or female.
        age: In years.
        headgear: cap, hood, headscarf, or None.
        glasses: Whether it wears glasses.
        mask: Whether it wears a mask.
        season: summer or winter.
        skin: Colour of skin.
        hair: Colour of hair.
        clothes: Colour of the top or coat.
        headgear_colour: Colour of what is on the head.
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
        """Height as a share of an adult's: 0.8 at six years, 1 from 18 on."""
        return float(np.interp(self.age, (6, 18), (0.8, 1.0)))

    def attributes(self) -> dict[str, bool | str | int]:
        """Values of the default schema, less `occlusion` and `facing_camera`, which a frame decides."""
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
    """Name of the default schema's group that an age in years belongs to."""
    return _AGE_GROUPS[int(np.searchsorted(_GROUP_LIMITS, age, side="right"))][0]


def age_colour(age: float) -> Colour:
    """The saturated colour that stands for an age: yellow for children, then round the hues to red."""
    hue = float(np.interp(age, list(_AGE_HUES), list(_AGE_HUES.values()))) / 360
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, 0.95, 0.95)
    return _rounded(np.array([blue, green, red]) * 255)


def draw_appearance(rng: np.random.Generator) -> Appearance:
    """One person at random: each age group, gender and season equally often, headgear on 60 %."""
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
