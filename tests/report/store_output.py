"""A small output with two annotators, dropped persons, failures and hostile texts, and its report."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from actors.attribute_settings import SchemaSettings
from actors.corrections.decision import Decision
from actors.corrections.decision_log import append
from actors.records import Annotation
from actors.storage.object_store import ObjectStore
from jobs.settings import Settings
from tests.support import bad_inputs as bad
from tests.support.committed import Found, said, write_output
from tests.support.in_process import run_in_process

LEFT, RIGHT = (0.1, 0.2, 0.3, 0.8), (0.6, 0.2, 0.8, 0.8)
WIDTH_PX, HEIGHT_PX = 160, 80
BLUE, RED = (220, 40, 40), (40, 40, 220)
"""The colours of the kept persons on the left and of the dropped ones on the right, in OpenCV's order."""
ATTRIBUTES = ("gender", "exact_age", "cap")
HOSTILE = '</script><img src=x onerror="document.title=name"><b>'
HOSTILE_CAMERA = "<i>till</i>"


def picture() -> bytes:
    pixels = np.full((HEIGHT_PX, WIDTH_PX, 3), 128, np.uint8)
    for (x1, y1, x2, y2), colour in ((LEFT, BLUE), (RIGHT, RED)):
        pixels[round(y1 * HEIGHT_PX) : round(y2 * HEIGHT_PX), round(x1 * WIDTH_PX) : round(x2 * WIDTH_PX)] = (
            colour
        )
    return cv2.imencode(".jpg", pixels)[1].tobytes()


def answers(number: int) -> dict[str, Annotation]:
    """Both call the sixth person female, and Gemini alone every fourth one; they agree about the others.

    Gemini has blocked the first person.
    """
    smolvlm = "female" if number == 5 else "male"
    gemini = "female" if number % 4 == 0 else smolvlm
    confidence = {"gender": 0.55 if number == 0 else 0.95}
    found = {"smolvlm": replace(said(confidence, gender=smolvlm, exact_age=20 + number), reasoning=HOSTILE)}
    found["gemini"] = (
        said(gender=gemini, exact_age=20 + number) if number else Annotation("blocked", "safety")
    )
    return found


class Shop:
    """An output whose shard `a` has ten frames of one camera, `b` two frames of two cameras, `c` failed.

    Every frame has a kept person on the left and a dropped one on the right.
    """

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, uri: str | None = None, **output: Any
    ) -> None:
        self.output, self.source = folder / "out", folder / "in"
        self.uri = uri or str(self.output)
        self._monkeypatch = monkeypatch
        self.source.mkdir()
        keys = {"a": [f"a{n}" for n in range(10)], "b": ["b0", "b1"]}
        cameras = dict.fromkeys(keys["a"], HOSTILE_CAMERA) | {"b0": "door", "b1": HOSTILE_CAMERA}
        start = datetime(2024, 5, 1, 9, tzinfo=UTC)
        times = {key: start + timedelta(minutes=n) for n, key in enumerate([*keys["a"], *keys["b"]])}
        shards: dict[str, dict[str, Any]] = {}
        number = 0
        for shard_id, some in keys.items():
            content = {f"{key}.jpg": picture() for key in some}
            (self.source / f"{shard_id}.tar").write_bytes(bad.tar(content))
            shards[shard_id] = {}
            for key in some:
                dropped = Found(RIGHT, score=0.4, kept=False)
                kept = Found(LEFT, score=0.9, crop=picture(), answers=answers(number))
                shards[shard_id][key] = [kept, dropped]
                number += 1
        shards["b"] |= {"b2": f"truncated {HOSTILE} at 17", "b3": f"truncated {HOSTILE} at 21"}
        defined = {name: SchemaSettings().attributes[name] for name in ATTRIBUTES}
        places = {"input": {"uri": str(self.source)}, "output": {"uri": self.uri}}
        self.settings = Settings.model_validate({**places, "schema": {"attributes": defined, "rules": []}})
        self.store = ObjectStore(self.uri)
        failed = {"c": {"c0": []}}
        (self.source / "c.tar").write_bytes(bad.tar({"c0.jpg": picture()}))
        errors = {"c": "no header at byte 512"}
        write_output(
            self.store, shards | failed, self.settings, errors, cameras=cameras, times=times, **output
        )
        self.run("consolidate")

    def run(self, *arguments: object, expect: int = 0) -> None:
        assert run_in_process(self._monkeypatch, *arguments, "--output", self.uri) == expect

    def report(self, *options: object) -> Page:
        self.run("report", *options)
        return Page(self.store.read("report.html").decode())

    def decide(self, kind: str, frame: str, reviewer: str = "ann", **content: Any) -> str:
        box = tuple(map(float, np.array(LEFT, np.float32)))
        given = {"shard_id": frame[0], "frame_key": frame, "bbox": box, "detection": "001-00000000"}
        made = {"reviewer": reviewer, "tool": "via", "kind": kind}
        decision = Decision.model_validate({**made, **given, **content})
        append(self.store, [decision])
        return decision.decision_id


class Page(HTMLParser):
    """A parsed page.

    Attributes:
        tags: Every element with its attributes, in order.
        sections: The text of each section, cells and paragraphs divided by spaces.
        scripts: The content of each script.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.style = ""
        self._texts: dict[str, list[str]] = {}
        self._section, self._inside = "", ""
        self.feed(html)
        self.sections = {name: " ".join(" ".join(some).split()) for name, some in self._texts.items()}
        self.data: dict[str, Any] = json.loads(self.scripts[0])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "section":
            self._section = str(dict(attrs)["aria-labelledby"])

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""
        if tag == "section":
            self._section = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside == "style":
            self.style += data
        else:
            self._texts.setdefault(self._section, []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def colour_of(uri: str | None) -> tuple[int, ...]:
    """Return the colour in the middle of a picture, rounded to 20, in OpenCV's order."""
    kind, _, content = str(uri).partition("base64,")
    assert kind == "data:image/jpeg;"
    return colour_of_jpeg(base64.b64decode(content))


def colour_of_jpeg(content: bytes) -> tuple[int, ...]:
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    middle = image[image.shape[0] // 2, image.shape[1] // 2]
    return tuple(20 * round(int(value) / 20) for value in middle)
