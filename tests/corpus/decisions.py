"""Lines of `corrections/` that are broken, or say what can't be."""

from __future__ import annotations

import json
from typing import Any

from tests.corpus.kinds import BadText

GOOD: dict[str, Any] = {
    "decision_id": "0" * 32,
    "decided_at": "2026-03-07T10:00:00Z",
    "reviewer": "ann",
    "tool": "via",
    "shard_id": "a",
    "frame_key": "f",
    "bbox": [0.1, 0.1, 0.2, 0.5],
    "detection": "001-00000000",
    "kind": "value",
    "attribute": "gender",
    "value": "female",
}


def line(**changes: Any) -> bytes:
    """Return a decision with other values as a line."""
    return json.dumps({**GOOD, **changes}).encode() + b"\n"


def _refused(name: str, content: bytes, says: str) -> BadText:
    return BadText(f"corrections: {name}", content, says)


DECISIONS = (
    _refused("a line cut in half", line() + line()[:60], "line 2: decision: Invalid JSON"),
    _refused("an empty line", line() + b"\n" + line(), "line 2: decision: Invalid JSON"),
    _refused("not UTF-8", line() + b'{"reviewer": "\xff"}', "line 2: decision: Invalid JSON"),
    _refused("100,000 lists in lists", b"[" * 100_000, "line 1: decision: Invalid JSON"),
    _refused("a list", b"[1]\n", "line 1: decision: Input should be an object"),
    _refused("a key of a later version", line(schema_version=9), "schema_version: Extra inputs"),
    _refused("an unknown kind", line(kind="delete"), "kind: Input should be"),
    _refused("box outside of the frame", line(bbox=[0, 0, 9, 9]), "bbox: Value error, a box is"),
    _refused("box of NaN", line(bbox=[float("nan"), 0, 1, 1]), "bbox.0: Input should be a finite number"),
    _refused(
        "time without a zone",
        line(decided_at="2026-03-07T10:00:00"),
        "decided_at: Input should have timezone",
    ),
    _refused("value that is an object", line(value={"$ne": 1}), "value"),
    BadText("corrections: an unknown person", line(frame_key="../../f"), remark="left out"),
    BadText("corrections: an unknown shard", line(shard_id="../../a"), remark="left out"),
    BadText("corrections: an unknown attribute", line(attribute="__class__"), remark="left out"),
    BadText("corrections: a value that the attribute doesn't have", line(value="<b>=1+1"), remark="left out"),
)
