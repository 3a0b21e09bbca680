"""The page of `shopframe serve` in a real browser: clicked, typed in, looked at by axe-core."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

from playwright.sync_api import Browser, Page, expect  # noqa: E402

from tests.serve.browsing import SIZES, drag_a_box, opened  # noqa: E402
from tests.serve.served import Client, Output  # noqa: E402
from tests.support.in_process import run_in_process  # noqa: E402


def test_a_click_on_a_bar_shows_its_persons_and_another_one_all(page: Page):
    bar = page.get_by_role("button", name="gender: female, 9 persons")
    bar.click()
    expect(page.locator("#wall-title")).to_have_text("9 persons")
    expect(page.locator("#wall .tile")).to_have_count(9)
    expect(bar).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="camera: till, 6 persons").click()
    expect(page.locator("#wall-title")).to_have_text("6 persons")
    page.go_back()
    expect(page.locator("#wall-title")).to_have_text("9 persons")
    page.get_by_role("button", name="Remove the filter gender is female").click()
    expect(page.locator("#wall-title")).to_have_text("18 persons")


def test_persons_of_a_time_are_shown(page: Page):
    page.get_by_text("More about the persons").click()
    page.get_by_label("From (UTC)").fill("2026-05-02T00:00")
    page.get_by_role("button", name="Show this time").click()
    expect(page.locator("#wall-title")).to_have_text("6 persons")
    page.get_by_role("button", name="Region of interest: min height, 2 persons").click()
    expect(page.locator("#wall-title")).to_have_text("2 persons")
    expect(page.locator("#wall .mark").first).to_have_text("dropped: min height")


def test_what_is_typed_and_focused_stays_when_the_charts_are_drawn_again(page: Page):
    page.get_by_text("More about the persons").click()
    page.get_by_label("From (UTC)").fill("2026-05-02T00:00")
    with page.expect_response("**/charts"):
        page.get_by_text("More about gender").click()
    expect(page.get_by_text("More about gender")).to_be_focused()
    expect(page.get_by_label("From (UTC)")).to_have_value("2026-05-02T00:00")
    camera = page.get_by_role("button", name="camera: <b>door</b>, 6 persons")
    camera.press("Enter")
    expect(page.locator("#conditions")).to_contain_text("camera is <b>door</b>")
    expect(camera).to_have_attribute("aria-pressed", "true")
    expect(camera).to_be_focused()


def test_thumbnails_are_shown(page: Page):
    image = page.locator("#wall .tile img").first
    expect(image).to_be_visible()
    expect(image).to_have_js_property("naturalHeight", 256)


def test_text_of_the_data_never_becomes_markup(page: Page):
    expect(page.get_by_role("button", name="camera: <b>door</b>, 6 persons")).to_be_visible()
    page.get_by_role("button", name=re.compile("^Person 6:")).click()
    expect(page.locator("#person .pictures")).to_contain_text("<b>door</b>")
    assert page.locator("#charts b, #person b").count() == 0


def test_persons_are_corrected_by_keys_alone(page: Page, output: Output):
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the persons")).to_be_focused()
    page.locator("#wall .open").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    title = page.locator("#person-title")
    expect(title).to_have_text("Person 1")
    # From female to unknown to can't tell: one decision, made before the next person is shown.
    page.keyboard.press("g")
    page.keyboard.press("g")
    page.keyboard.press("n")
    expect(title).to_have_text("Person 2")
    expect(page.get_by_role("status")).to_have_text("Person 1: gender is can't tell")
    page.keyboard.press("x")
    expect(page.locator("#person .warning", has_text="Not a person")).to_be_visible()
    page.keyboard.press("u")
    expect(page.locator("#person .warning", has_text="Not a person")).to_have_count(0)
    page.keyboard.press("k")
    expect(title).to_have_text("Person 1")
    page.keyboard.press("Enter")
    expect(title).to_have_text("Person 2")
    page.keyboard.press("e")
    page.keyboard.type("44")
    page.keyboard.press("Enter")
    expect(page.locator("tr[data-attribute=exact_age] .source")).to_have_text("human")
    page.keyboard.press("Escape")
    expect(page.locator("#person")).to_be_hidden()
    expect(page.locator("#unsaved")).to_contain_text("Decisions about 2 persons are saved")
    decisions = output.decisions()
    assert [(d.kind, d.value) for d in decisions if d.attribute == "gender"] == [("value", None)]
    assert [d.kind for d in decisions if d.kind != "value"] == ["not_a_person", "withdrawal"]
    output.consolidate()
    columns = "gender, gender_source, exact_age, exact_age_source, is_person"
    assert output.rows(columns, "shard_id = 'a' AND frame_key = 'f'")[1:] == [
        (None, "human", 40, "human", True), ("unknown", "smolvlm", 44, "human", True),
    ]  # fmt: skip


def test_both_answers_stand_side_by_side_with_confidences_and_history(page: Page):
    page.get_by_role("button", name=re.compile("^Person 0:")).click()
    row = page.locator("tr[data-attribute=gender]")
    expect(row).to_contain_text("gemini")
    expect(row.locator("td.differs")).to_have_text(["female", "male 55%"])
    expect(page.locator("#person .warning")).to_have_text("Breaks the rule: exact_age within age_group")
    expect(page.locator("#person .box")).to_have_count(4)
    page.get_by_label("gender", exact=True).select_option(label="male")
    expect(row.locator(".source")).to_have_text("human")
    expect(page.locator(".history li")).to_contain_text("ann (serve): gender: male (was female)")
    page.get_by_role("button", name="Open person 1 of this frame").click()
    expect(page.locator("#person-title")).to_have_text("Person 1")


def test_a_box_is_redrawn_by_keys_and_by_dragging(page: Page, output: Output):
    page.get_by_role("button", name=re.compile("^Person 0:")).click()
    expect(page.locator("#person-title")).to_have_text("Person 0")
    page.keyboard.press("b")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator(".history li")).to_have_count(1)
    page.get_by_role("button", name=re.compile("^Redraw the box")).click()
    drag_a_box(page, (0.25, 0.25), (0.5, 0.75))
    page.keyboard.press("Enter")
    expect(page.locator(".history li")).to_have_count(2)
    by_keys, by_pointer = [decision.new_bbox for decision in output.decisions()]
    assert by_keys == pytest.approx((0.105, 0.1, 0.205, 0.605))
    assert by_pointer == pytest.approx((0.25, 0.25, 0.5, 0.75), abs=0.01)


def test_several_persons_are_changed_at_once(page: Page, output: Output):
    page.get_by_label("Select person 0").check()
    page.get_by_label("Select person 3").click(modifiers=["Shift"])
    expect(page.locator("#actions")).to_contain_text("4 selected")
    page.get_by_label("Attribute", exact=True).select_option("cap")
    page.get_by_label("New value").first.select_option(label="no")
    page.get_by_role("button", name="Set", exact=True).click()
    expect(page.locator("#unsaved")).to_contain_text("4 persons")
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#unsaved")).to_be_empty()
    assert [d.kind for d in output.decisions()] == ["value"] * 4 + ["withdrawal"] * 4


def test_a_queue_says_how_many_are_left_and_what_is_expected(page: Page):
    page.get_by_role("button", name=re.compile("^Rule violations ?6")).click()
    expect(page.locator("#left")).to_have_text("6 left.")
    page.get_by_role("button", name="Begin with the first").click()
    expect(page.locator("#person")).to_contain_text("1 of 6")
    page.keyboard.press("Enter")
    expect(page.locator("#person")).to_contain_text("2 of 6")
    page.keyboard.press("Escape")
    expect(page.locator("#left")).to_have_text("5 left; 1 decided, 0 of them changed.")
    expect(page.locator("#expected")).to_contain_text(
        "The next 5 are expected to change 0 (95% interval 0 to"
    )


def test_an_audit_is_drawn(page: Page):
    page.get_by_role("button", name="Random audit").click()
    page.get_by_label("Persons", exact=True).fill("9")
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(page.locator("#queue")).to_contain_text("drawn with probability 50%")
    expect(page.locator("#wall .tile")).to_have_count(9)


def test_the_page_says_where_the_input_is_gone(browser: Browser, client: Client, output: Output):
    for tar in output.source.iterdir():
        tar.unlink()
    page = opened(browser, client)
    expect(page.locator("#wall .gone").first).to_contain_text("is no longer there")
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", list(SIZES))
def test_axe_finds_nothing_and_the_page_fits_its_width(
    browser: Browser, client: Client, size: str, scheme: str
):
    # axe-core is put into the page, which its policy forbids.
    page = opened(browser, client, size, scheme, bypass_csp=True)
    if size == "phone":
        page.locator("#filter-fold > summary").click()
    page.get_by_label("Select person 0").check()
    looked_at(page)
    page.get_by_role("button", name=re.compile("^Most disagreeing")).click()
    page.get_by_role("button", name="Begin with the first").click()
    expect(page.locator("#person table")).to_be_visible()
    looked_at(page)
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    looked_at(page)
    assert page.errors == []
    page.context.close()


@pytest.mark.parametrize(("size", "scheme"), [("wide", "light"), ("phone", "dark")])
def test_the_page_says_how_sure_numbers_are_and_what_the_shop_did(
    browser: Browser, client: Client, output: Output, monkeypatch: pytest.MonkeyPatch, size: str, scheme: str
):
    zones = output.path.parent / "zones.yaml"
    zones.write_text("zones: [{name: till <1>, kind: till, camera: till, rectangle: [0, 0, 1, 1]}]")
    options = ["--zones", zones, "--set", "analyze.max_gap_s=100000"]
    assert run_in_process(monkeypatch, "analyze", "--output", output.path, *options) == 0
    page = opened(browser, client, size, scheme, bypass_csp=True)
    page.get_by_role("link", name="Numbers").click()
    sure = page.get_by_role("region", name="How sure")
    expect(sure).to_contain_text("is a model's guess, and nobody knows how wrong it is")
    shop = page.get_by_role("region", name="What the shop did")
    expect(shop.get_by_role("heading", name="Queue at till <1>")).to_be_visible()
    charts = [
        "by hour of the day (UTC): 3.00 from 9:00",
        "over time at till: most",
        "Length of the queue at till <1>",
    ]
    for said in charts:
        expect(shop.get_by_role("img", name=said)).to_be_visible()
    assert shop.locator("img.map").evaluate("(image) => image.decode().then(() => image.naturalWidth)") > 0
    expect(shop).to_contain_text("These shares rest on a model's guess")
    cut_off = "(all) => all.filter((one) => one.scrollWidth > one.clientWidth).length"
    assert shop.locator(".wide").evaluate_all(cut_off) == 0
    looked_at(page)
    page.get_by_role("link", name="Persons", exact=True).click()
    expect(page.locator("#wall-title")).to_have_text("18 persons")
    assert page.errors == []
    page.context.close()


def looked_at(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    found = axe.Axe().run(page)
    assert found.response["violations"] == [], found.generate_report()
