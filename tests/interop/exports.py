"""Write what the independent readers read. This runs in the project's own environment.

`python -m tests.interop.exports FOLDER` makes an output of two frames whose attributes have difficult values,
and exports it for every tool, and as data sets.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from actors.records import Annotation
from actors.storage.object_store import ObjectStore
from jobs.exchange.tools import TOOLS
from jobs.settings import Settings
from tests.support import bad_inputs as bad
from tests.support.committed import FRAME_HEIGHT_PX, FRAME_WIDTH_PX, Found, write_output
from tests.support.in_process import run_in_process

BOXES = ((0.1, 0.1, 0.2, 0.5), (0.4, 0.1, 0.5, 0.5), (0.6, 0.2, 0.7, 0.9))
MOODS = ['froh "lustig"', "l'été <b>&amp;", "日本語", "null"]
ATTRIBUTES = {
    "gender": {"type": "category", "values": ["male", "female", "unknown"]},
    "mood": {"type": "category", "values": MOODS},
    "glasses": {"type": "boolean", "nullable": True},
    "steps": {"type": "integer", "min": -5, "max": 40, "nullable": True},
    # With these, there are more attributes than VIA 3 imports from a project of VIA 2.
    **{name: {"type": "boolean"} for name in ("cap", "hood", "scarf", "mask", "bag", "cart", "child", "dog")},
}


def _person(number: int) -> Found:
    values: dict[str, Any] = {
        "gender": ("male", "female", "unknown")[number % 3],
        "mood": MOODS[number % 4],
        "glasses": (True, False, None)[number % 3],
        "steps": (-5, None, 40)[number % 3],
    }
    values |= {name: number % 2 == 0 for name in ATTRIBUTES if name not in values}
    answer = Annotation("ok", values=values, confidence=dict.fromkeys(values, 0.5), distribution={})
    return Found(BOXES[number % 3], score=1 - number / 100, answers={"smolvlm": answer})


def write(folder: Path, shopframe: Callable[..., None]) -> None:
    """Write the output and the exports, with a function that runs a command."""
    source, output = folder / "in", folder / "out"
    source.mkdir(parents=True)
    images = {f"{key}.jpg": bad.jpeg(FRAME_WIDTH_PX, FRAME_HEIGHT_PX, seed) for seed, key in enumerate("fg")}
    (source / "a.tar").write_bytes(bad.tar(images))
    settings = Settings.model_validate(
        {
            "input": {"uri": str(source)},
            "output": {"uri": str(output)},
            "schema": {"attributes": ATTRIBUTES, "rules": []},
        }
    )
    frames = {"f": [_person(n) for n in range(3)], "g": [_person(n) for n in range(3, 6)]}
    times = {key: datetime(2024, 5, 1, 9, minute, tzinfo=UTC) for minute, key in enumerate("fg")}
    write_output(ObjectStore(str(output)), {"a": frames}, settings, times=times)
    shopframe("consolidate", "--output", output)
    for kind in ("coco", "hf", "webdataset"):
        data = folder / "data" / kind
        shopframe("export", "--output", output, "--format", kind, "--to", data, "--split-by", "minute")
    for tool in TOOLS:
        shopframe("review", "export", "--output", output, "--format", tool, "--to", folder / tool)


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patches:

        def run(*arguments: object) -> None:
            assert run_in_process(patches, *arguments) == 0

        write(Path(sys.argv[1]), run)
