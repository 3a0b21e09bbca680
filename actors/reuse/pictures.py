"""How alike two crops are, and how clear a crop is.

Two crops are compared by normalised cross-correlation (J. P. Lewis, "Fast Normalized Cross-Correlation",
1995), as OpenCV's `matchTemplate` computes it, of small colour pictures. A detector's boxes differ by some
pixels from frame to frame, so the best of a few shifts counts. The lower one of the correlations of the
whole picture and of the head decides: clothes alone would let somebody who has turned round pass.

Perceptual hashes (64 bits of the grey picture, as in the library imagehash) tell people apart less well on
the demo's sequences; docs/reuse.md has the figures.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

_WIDTH_PX, _HEIGHT_PX = 40, 80
_SHIFT_PX = 4
_PARTS = (
    (slice(0, _HEIGHT_PX), slice(0, _WIDTH_PX)),
    (slice(0, 34), slice(6, 34)),
)
"""Rows and columns of the small picture that show the whole person, and the head."""

_FLAT = 1e-3
"""Deviation of grey values below which a picture shows nothing that could be compared."""


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A crop as it is compared.

    Attributes:
        small: (80, 40, 3) uint8, BGR.
        sharpness: Variance of the Laplacian of the small picture in grey.
    """

    small: np.ndarray
    sharpness: float


def picture_of(jpeg: bytes) -> Picture | None:
    """Return a crop as it is compared, or None if it is too small, too flat or not readable."""
    crop = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    if crop is None or crop.shape[0] < _HEIGHT_PX // 2 or crop.shape[1] < _WIDTH_PX // 2:
        return None
    small = cv2.GaussianBlur(
        cv2.resize(crop, (_WIDTH_PX, _HEIGHT_PX), interpolation=cv2.INTER_AREA), (3, 3), 0
    )
    grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
    if grey.std() < _FLAT:
        return None
    return Picture(small, float(cv2.Laplacian(grey, cv2.CV_64F).var()))


def similarity(one: Picture, other: Picture) -> float:
    """Return how alike two crops are (0..1). The order of the two doesn't matter."""
    found = min(
        _correlation(some[part], others[part])
        for part in _PARTS
        for some, others in ((one.small, other.small), (other.small, one.small))
    )
    return round(min(1.0, max(0.0, found)), 6)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    template = one[_SHIFT_PX:-_SHIFT_PX, _SHIFT_PX:-_SHIFT_PX]
    found = cv2.matchTemplate(other, template, cv2.TM_CCOEFF_NORMED)
    # Where one of the windows is flat, the quotient is not defined.
    return float(np.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0).max())
