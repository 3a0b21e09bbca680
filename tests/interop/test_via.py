"""The page of VIA 3 opens an exported project, and what a person clicks there comes back as decisions.

It opens the project of VIA 3, and imports that of VIA 2.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

Point = tuple[float, float]


class Via:
    """VIA in a browser, with an exported project and its first frame shown."""

    def __init__(self, page: Page, folder: Path, version: int) -> None:
        self._page, self._folder = page, folder
        spec = find_spec("annomate")
        assert spec is not None
        assert spec.submodule_search_locations
        shutil.copy(
            Path(spec.submodule_search_locations[0]) / "via_image_annotator.html", folder / "via.html"
        )
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto((folder / "via.html").as_uri())
        if version == 2:
            self.press("Import or Export Annotations")
            page.locator("#via_page_import_via2_project_json").set_input_files(folder / "via-0001.json")
            page.locator("#via_page_button_import").click()
        else:
            with page.expect_file_chooser() as asked:
                self.press("Open a VIA Project")
            asked.value.set_files(folder / "via3-0001.json")
        self._image = page.locator("img[title='frames/a.f.jpg']")
        self._image.wait_for()
        page.wait_for_function("document.querySelector('#file_content').naturalWidth > 0")
        page.locator("#input").wait_for()

    def press(self, title: str) -> None:
        self._page.locator("svg.svg_button", has_text=title).click()

    def click(self, point: Point) -> None:
        self._page.mouse.click(*self._on_page(point))

    def drag(self, start: Point, end: Point) -> None:
        self._page.mouse.move(*self._on_page(start))
        self._page.mouse.down()
        self._page.mouse.move(*self._on_page(end), steps=5)
        self._page.mouse.up()

    def cell(self, attribute: str) -> Any:
        """Return the cell of the selected region's table that is below the name of an attribute."""
        table = self._page.locator("#smetadata_container table")
        names = table.locator("th").all_text_contents()
        return table.locator("tbody td").nth(names.index(attribute))

    def key(self, key: str) -> None:
        self._page.keyboard.press(key)

    def save(self) -> None:
        with self._page.expect_download() as started:
            self.press("Save current VIA Project")
        started.value.save_as(self._folder / started.value.suggested_filename)

    def _on_page(self, point: Point) -> Point:
        box = self._image.bounding_box()
        assert box is not None
        return box["x"] + point[0] * box["width"], box["y"] + point[1] * box["height"]


@pytest.fixture
def opened(browser: Browser, work: Path) -> Callable[[int], Via]:
    """Open the project of a version of VIA."""
    # The frames have 2000 by 1000 pixels, and VIA shows them at that size.
    page = browser.new_page(viewport={"width": 2100, "height": 1200}, accept_downloads=True)
    return lambda version: Via(page, work / "via", version)


@pytest.mark.parametrize("version", [2, 3])
def test_a_project_that_is_saved_without_a_change_is_no_decision(
    opened: Callable[[int], Via], version: int, take_back: Callable[..., Any]
):
    via = opened(version)
    via.save()
    # The command succeeds only if nothing is lost.
    assert take_back("via", expect=int(version == 2)) == []
    assert via.errors == []


def test_what_a_person_clicks_comes_back(opened: Callable[[int], Via], take_back: Callable[..., Any]):
    via = opened(3)
    via.click((0.45, 0.3))
    assert via.cell("person_id").locator("textarea").input_value() == "a/f/1"
    assert via.cell("mood").locator("select option:checked").inner_text() == "l'été <b>&amp;"
    via.cell("gender").locator("select").select_option("male")
    via.cell("mood").locator("select").select_option(label='froh "lustig"')
    via.cell("glasses").get_by_role("radio").nth(2).check()
    via.cell("steps").locator("textarea").fill("7")
    via.cell("steps").locator("textarea").blur()
    via.cell("dog").get_by_role("radio").nth(0).check()
    via.click((0.3, 0.8))
    via.click((0.15, 0.3))
    via.key("Backspace")
    via.click((0.65, 0.5))
    via.drag((0.7, 0.55), (0.75, 0.55))
    via.click((0.3, 0.8))
    via.drag((0.85, 0.1), (0.95, 0.5))
    via.save()
    decisions = take_back("via")
    said = sorted((d["kind"], d["attribute"] or "", str(d["value"]), str(d["replaces"])) for d in decisions)
    assert said == [
        ("box", "", "None", "None"),
        ("missed_person", "", "None", "None"),
        ("not_a_person", "", "None", "None"),
        ("value", "dog", "True", "False"),
        ("value", "gender", "male", "female"),
        ("value", "glasses", "None", "False"),
        ("value", "mood", 'froh "lustig"', "l'été <b>&amp;"),
        ("value", "steps", "7", "None"),
    ]
    boxes = {d["kind"]: d["new_bbox"] or d["bbox"] for d in decisions}
    assert boxes["not_a_person"] == pytest.approx((0.1, 0.1, 0.2, 0.5), abs=0.002)
    assert boxes["value"] == pytest.approx((0.4, 0.1, 0.5, 0.5), abs=0.002)
    assert boxes["box"] == pytest.approx((0.6, 0.2, 0.75, 0.9), abs=0.002)
    assert boxes["missed_person"] == pytest.approx((0.85, 0.1, 0.95, 0.5), abs=0.002)
    assert via.errors == []
