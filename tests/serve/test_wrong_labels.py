"""Wrong labels are found by the queues, corrected in three tools, and stay when a rerun answers otherwise."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

pytest.importorskip("playwright.sync_api")

from playwright.sync_api import Browser, Page, expect

from actors.records import Annotation
from actors.storage.object_store import ObjectStore
from jobs.settings import Settings
from tests.serve.served import served
from tests.support import bad_inputs as bad
from tests.support.committed import FRAME_HEIGHT_PX, FRAME_WIDTH_PX, Found, write_output
from tests.support.exchange import submitted
from tests.support.in_process import run_in_process

# A busy machine takes longer than the default of 5 s.
expect.set_options(timeout=20_000)

SHARDS, FRAMES, PERSONS = ("a", "b"), 30, 5
COUNT = len(SHARDS) * FRAMES * PERSONS
PLANTED = {"disagreeing": range(7, COUNT, 36), "least_certain": range(10, COUNT, 36)}
"""The persons whose label is wrong, as numbers in the order of frames, by the queue that is to find them."""
WRONG = sorted(number for some in PLANTED.values() for number in some)
IN_PAGE, IN_VIA, IN_LABELSTUDIO = WRONG[0::3], WRONG[1::3], WRONG[2::3]
ATTRIBUTES = {
    "gender": {"type": "category", "values": ["male", "female", "unknown"]},
    "cap": {"type": "boolean"},
}


def answers(number: int) -> dict[str, Annotation]:
    """Everybody is male. Most are unsure or in dispute for less reason than those with a wrong label."""

    def says(gender: str, confidence: float | None = None) -> Annotation:
        sure = {} if confidence is None else {"gender": confidence, "cap": 0.99}
        return Annotation("ok", values={"gender": gender, "cap": False}, confidence=sure)

    if number in PLANTED["disagreeing"]:
        return {"smolvlm": says("male", 0.97), "gemini": says("female")}
    if number in PLANTED["least_certain"]:
        return {"smolvlm": says("female", 0.45)}
    if number % 5 in (0, 1):
        return {"smolvlm": says("female", 0.6), "gemini": says("male")}
    if number % 5 in (2, 3):
        return {"smolvlm": says("male", 0.6)}
    return {"smolvlm": says("male", 0.99), "gemini": says("male")}


def box(number: int, moved: float = 0.0) -> tuple[float, float, float, float]:
    left = 0.02 + 0.19 * (number % PERSONS) + moved
    return (left, 0.1 + moved, left + 0.15, 0.8 + moved)


class Store:
    """An output whose input is a folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path, self.folder, self.cache = folder / "out", folder, folder / "cache"
        self._monkeypatch = monkeypatch
        (folder / "in").mkdir()
        picture = bad.jpeg(FRAME_WIDTH_PX, FRAME_HEIGHT_PX)
        for shard_id in SHARDS:
            frames = {f"{key}.jpg": picture for key in self.frames(shard_id)}
            (folder / "in" / f"{shard_id}.tar").write_bytes(bad.tar(frames))
        self.settings = Settings.model_validate(
            {
                "input": {"uri": str(folder / "in")},
                "output": {"uri": str(self.path)},
                "schema": {"attributes": ATTRIBUTES, "rules": []},
            }
        )

    @staticmethod
    def frames(shard_id: str) -> dict[str, list[int]]:
        """Return the numbers of the persons in each frame of a shard."""
        first = SHARDS.index(shard_id) * FRAMES
        return {
            f"f{frame:03d}": list(range(frame * PERSONS, (frame + 1) * PERSONS))
            for frame in range(first, first + FRAMES)
        }

    def write(
        self, said: Callable[[int], dict[str, Annotation]], order: int = 1, moved: float = 0.0, **prints: str
    ) -> None:
        """Commit what a run has found, and consolidate it.

        Args:
            said: The answers about a person.
            order: 1 or -1; whether persons are numbered from the left or from the right.
            moved: How far the boxes are from those of the first run.
            prints: Fingerprints of stages whose settings are other ones than in the first run.
        """
        shards = {
            shard_id: {
                key: [Found(box(n, moved), score=0.9 - order * n / 1000, answers=said(n)) for n in numbers]
                for key, numbers in self.frames(shard_id).items()
            }
            for shard_id in SHARDS
        }
        stages = {"detect": "d", "person_json": "p", "smolvlm": "s", "gemini": "g"} | prints
        write_output(
            ObjectStore(str(self.path)), shards, self.settings, fingerprints=stages, person_json="none"
        )
        self.run("consolidate")

    def run(self, *arguments: object) -> None:
        assert run_in_process(self._monkeypatch, *arguments, "--output", self.path) == 0

    def final(self) -> dict[int, tuple[str, str]]:
        """Return gender and its source by person, in the order from the left of each frame."""
        found = duckdb.sql(
            f"SELECT gender, gender_source FROM '{self.path}/consolidated/*.parquet' "
            "ORDER BY shard_id, frame_key, bbox[1]"
        ).fetchall()
        return dict(enumerate(found))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with pytest.MonkeyPatch.context() as patch:
        made = Store(tmp_path_factory.mktemp("wrong"), patch)
        made.write(answers)
        yield made


@pytest.mark.parametrize("queue", PLANTED)
def test_the_first_hundred_of_a_queue_have_the_wrong_labels(store: Store, queue: str):
    with served(ObjectStore(str(store.path)), store.cache) as client:
        found = client.ask("persons", view={"queue": queue}, limit=100)
    assert found["count"] > 100 + len(PLANTED[queue])
    assert set(PLANTED[queue]) <= {person["id"] for person in found["persons"]}


def test_corrections_of_three_tools_are_final_and_stay(browser: Browser, store: Store):
    for number in WRONG:
        assert store.final()[number][0] == "female"
    correct_in_page(browser, store)
    store.run("review", "export", "--format", "via", "--to", store.folder / "via")
    store.run("review", "export", "--format", "labelstudio", "--to", store.folder / "labelstudio")
    correct_in_via(store.folder / "via")
    correct_in_labelstudio(store.folder / "labelstudio")
    for tool in ("via", "labelstudio"):
        store.run("review", "import", "--from", store.folder / tool, "--reviewer", f"{tool} user")
    store.run("consolidate")
    assert corrected(store) == dict.fromkeys(WRONG, "male")

    def otherwise(number: int) -> dict[str, Annotation]:
        return {name: Annotation("ok", values={"gender": "unknown", "cap": True}) for name in answers(number)}

    # Another prompt, then other weights: other answers, and then also other boxes with other numbers.
    store.write(otherwise, smolvlm="s2", gemini="g2")
    assert corrected(store) == dict.fromkeys(WRONG, "male")
    store.write(otherwise, order=-1, moved=0.01, detect="d2")
    assert corrected(store) == dict.fromkeys(WRONG, "male")
    assert {gender for gender, source in store.final().values() if source != "human"} == {"unknown"}

    store.run("report")
    report = (store.path / "report.html").read_text()
    assert f"<p>{len(WRONG)} decisions about {len(WRONG)} persons count." in report
    data = json.loads(
        re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', report, re.DOTALL)[0]
    )
    assert sum("human" in person["traits"] for person in data["people"]) == len(WRONG)


def corrected(store: Store) -> dict[int, str]:
    return {number: gender for number, (gender, source) in store.final().items() if source == "human"}


def correct_in_page(browser: Browser, store: Store) -> None:
    """Go through both queues by keys. Every wrong label that isn't left to other tools is corrected."""
    with served(ObjectStore(str(store.path)), store.cache) as client:
        page = browser.new_page()
        page.set_default_timeout(20_000)
        page.goto(client.address)
        for queue, title in (("disagreeing", "Most disagreeing"), ("least_certain", "Least certain")):
            name = re.compile(f"^{title}")
            page.get_by_role("button", name=name).press("Enter")
            expect(page.get_by_role("button", name=name)).to_have_attribute("aria-current", "page")
            # The names are drawn again with their sizes, and the next key goes to the same one.
            expect(page.locator("#left")).to_be_visible()
            expect(page.get_by_role("button", name=name)).to_be_focused()
            page.get_by_role("button", name="Begin with the first").press("Enter")
            look_through(page, set(IN_PAGE) & set(PLANTED[queue]))
            page.keyboard.press("Escape")
            expect(page.locator("#person")).to_be_hidden()
        expect(page.locator("#unsaved")).to_contain_text(f"Decisions about {len(IN_PAGE)} persons")
        page.close()


def look_through(page: Page, wrong: set[int]) -> None:
    for place in range(1, 101):
        expect(page.locator("#person .bar-of-person .quiet")).to_have_text(re.compile(f"^{place} of "))
        number = int(page.locator("#person-title").inner_text().split()[1])
        if number in wrong:
            # The value before "female" is "male".
            page.keyboard.press("Shift+G")
            wrong.remove(number)
            if not wrong:
                return
        page.keyboard.press("n")
    raise AssertionError(f"not among the first hundred: {wrong}")


def correct_in_via(folder: Path) -> None:
    project = json.loads((folder / "via3-0001.json").read_text())
    number_of = {about["aname"]: number for number, about in project["attribute"].items()}
    for region in project["metadata"].values():
        if person(region["av"][number_of["person_id"]]) in IN_VIA:
            region["av"][number_of["gender"]] = "male"
    (folder / "via_project_saved.json").write_text(json.dumps(project))


def correct_in_labelstudio(folder: Path) -> None:
    tasks = json.loads(submitted((folder / "labelstudio-0001.json").read_bytes()))
    for task in tasks:
        items: list[dict[str, Any]] = task["annotations"][0]["result"]
        ids = {i["id"]: i["value"]["text"][0] for i in items if i["from_name"] == "person_id"}
        for item in items:
            if item["from_name"] == "gender" and person(ids[item["id"]]) in IN_LABELSTUDIO:
                item["value"]["choices"] = ["male"]
    (folder / "project-1.json").write_text(json.dumps(tasks))


def person(person_id: str) -> int:
    """Return the number of a person in the first run, in which persons are numbered from the left."""
    _, frame, index = person_id.split("/")
    return int(frame[1:]) * PERSONS + int(index)
