"""The report in a real browser, opened as a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.report.store_output import HOSTILE, HOSTILE_CAMERA, Shop

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `inline.html`, and `beside.html` whose pictures are in a folder."""
    folder = tmp_path_factory.mktemp("shop")
    with pytest.MonkeyPatch.context() as monkeypatch:
        shop = Shop(folder, monkeypatch)
        shop.decide("value", "a2", attribute="gender", value="female", replaces="male")
        shop.run("consolidate")
        shop.run("report", "--to", folder / "inline.html")
        monkeypatch.setattr("jobs.reporting.building.MOST_INLINE", 1)
        shop.run("report", "--to", folder / "beside.html")
    return folder


class Opened:
    """A page, what it complained about, and what it asked for."""

    def __init__(self, page: Page, path: Path) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(path.as_uri())


def opened(browser: Browser, path: Path, width: int = 1440, colours: str = "light") -> Opened:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=colours)
    context.set_default_timeout(20_000)
    return Opened(context.new_page(), path)


def people(page: Page) -> int:
    return page.locator("#wall li").count()


def test_filters_and_answers_work_from_a_file(browser: Browser, reports: Path):
    shown = opened(browser, reports / "inline.html")
    page = shown.page
    assert people(page) == 12
    page.get_by_label("show", exact=True).select_option(label="annotators differ (2)")
    assert people(page) == 2
    assert page.locator("#said").inner_text() == "2 of 2 persons shown"
    page.get_by_role("button", name="Show all").click()
    page.locator("#wall li").nth(11).wait_for()
    page.get_by_label("gender", exact=True).select_option("=female")
    assert people(page) == 4
    page.get_by_label("source of a value").select_option("human")
    assert people(page) == 1
    page.locator("#wall button").press("Enter")
    answers = page.locator("dialog tr", has_text="gender").first
    assert answers.inner_text().split() == ["gender", "female", "human", "male", "male", "95%"]
    # What a model wrote is there to read, and is no markup.
    assert HOSTILE in page.locator("dialog").inner_text()
    assert HOSTILE_CAMERA in page.locator("dialog").inner_text()
    assert page.locator("dialog b, dialog i").count() == 0
    page.keyboard.press("Escape")
    assert page.locator("dialog").is_hidden()
    assert page.title() == f"Report of {reports / 'out'}"
    assert shown.complaints == []
    assert [url for url in shown.requests if not url.startswith("data:")] == [
        (reports / "inline.html").as_uri()
    ]


def test_filters_list_values_in_their_order(browser: Browser, reports: Path):
    page = opened(browser, reports / "inline.html").page
    ages = page.get_by_label("exact_age", exact=True).locator("option").all_inner_texts()
    assert ages == ["all", *(f"{20 + number} (1)" for number in range(12))]
    gender = page.get_by_label("gender", exact=True).locator("option").all_inner_texts()
    assert [text.split()[0] for text in gender] == ["all", "male", "female"]
    cameras = page.get_by_label("camera", exact=True).locator("option").all_inner_texts()
    assert cameras == ["all", f"{HOSTILE_CAMERA} (11)", "door (1)"]


def test_a_phone_shows_all_answers_about_a_person(browser: Browser, reports: Path):
    page = opened(browser, reports / "inline.html", 390).page
    page.locator("#wall button").first.click()
    answers = page.locator("dialog .wide")
    assert answers.evaluate("(box) => box.scrollWidth <= box.clientWidth")
    last = answers.locator("tr", has_text="gender").first.locator("td").last
    assert last.inner_text() == "male 55%"
    box = last.bounding_box()
    assert box["x"] + box["width"] <= 390


@pytest.mark.parametrize("name", ["inline.html", "beside.html"])
def test_every_picture_is_shown(browser: Browser, reports: Path, name: str):
    shown = opened(browser, reports / name)
    # Pictures further down are otherwise loaded when they are scrolled to.
    load = "(image) => { image.loading = 'eager'; return image.decode().then(() => image.naturalWidth); }"
    widths = shown.page.evaluate(f"Promise.all([...document.images].map({load}))")
    assert len(widths) == 12 + 7
    assert all(widths)
    assert shown.complaints == []


@pytest.mark.parametrize(("width", "colours"), [(1440, "light"), (390, "dark")])
def test_it_fits_and_can_be_read_by_everybody(browser: Browser, reports: Path, width: int, colours: str):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe").Axe()
    shown = opened(browser, reports / "inline.html", width, colours)
    page = shown.page
    assert page.evaluate("document.documentElement.scrollWidth") == width
    found = axe.run(page).response["violations"]
    page.locator("#wall button").first.click()
    found += axe.run(page).response["violations"]
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []
