"""Files of review tools that are broken, of other shapes, or hostile, by the name of the format."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tests.corpus.kinds import BadText

_DEEP = 100_000
_HUGE = 10**400

RAW = (
    ("not JSON", b"{", "JSON"),
    ("empty", b"", "JSON"),
    ("not UTF-8", bytes(range(128, 256)), "utf"),
    ("a number", b"3", "Error"),
    ("100,000 lists in lists", b"[" * _DEEP + b"]" * _DEEP, "RecursionError"),
    ("number of 5,000 digits", b'{"a": ' + b"9" * 5000 + b"}", "ValueError"),
)
"""Name, content, and a part of the message, for the formats of JSON."""


def _entities() -> bytes:
    lines = [f'<!ENTITY e{n} "{f"&e{n - 1};" * 10 if n else "x" * 10}">' for n in range(10)]
    return f"<!DOCTYPE a [{''.join(lines)}]><annotations>&e9;</annotations>".encode()


_EXTERNAL = (
    b'<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><annotations><image name="&e;"/></annotations>'
)

XML = (
    ("not XML", b"<annotations>", "ParseError"),
    ("entities of entities", _entities(), "ParseError"),
    ("entity that is a file", _EXTERNAL, "ParseError"),
    ("unknown encoding", b'<?xml version="1.0" encoding="none"?><annotations/>', "unknown encoding"),
    ("another root", b"<html/>", "without images"),
)
"""Likewise, for CVAT."""


def with_value(content: bytes, path: Sequence[str | int], value: Any) -> bytes:
    """Return JSON with another value at a place; a key `*` is the first one."""
    document = json.loads(content)
    found = document
    for key in path[:-1]:
        found = found[next(iter(found)) if key == "*" else key]
    found[path[-1]] = value
    return json.dumps(document).encode()


_REGION: Mapping[str, tuple[str | int, ...]] = {
    "via": ("_via_img_metadata", "*", "regions", 0, "shape_attributes"),
    "labelstudio": (0, "annotations", 0, "result", 0, "value"),
    "coco": ("annotations", 0),
}
_SIDE: Mapping[str, str] = {"via": "x", "labelstudio": "x", "coco": "bbox"}


def _side(tool: str, value: Any) -> Any:
    return [value, 1, 2, 3] if tool == "coco" else value


BOXES = (
    ("box of NaN", float("nan"), "not a finite number"),
    ("box of a number of 400 digits", _HUGE, "OverflowError"),
    ("box of words", "left", "TypeError"),
    ("box of nothing", None, "TypeError"),
)
"""Name, left side of the first box, and a part of the message, for the formats of JSON."""

XML_BOXES = (("box of infinity", b"inf", "not a finite number"), ("box of words", b"left", "ValueError"))
"""Likewise, for CVAT."""

OUTCOME = "refused with the file's name; nothing is decided"


def kinds_of(tool: str, content: bytes) -> list[BadText]:
    """Return the bad files of a tool, made of a good one."""
    made: list[tuple[str, bytes, str]] = []
    if tool == "cvat":
        made += XML
        for name, value, says in XML_BOXES:
            made.append((name, re.sub(rb'xtl="[^"]*"', b'xtl="%s"' % value, content, count=1), says))
    else:
        made += RAW
        place = (*_REGION[tool], _SIDE[tool])
        for name, value, says in BOXES:
            made.append((name, with_value(content, place, _side(tool, value)), says))
    return [BadText(f"{tool}: {name}", bad, says) for name, bad, says in made]
