"""What the page says about decisions is what the server has: refused, lost and undone ones, redrawn boxes."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("playwright.sync_api")

from playwright.sync_api import Browser, Page, expect

from tests.serve.browsing import drag_a_box, open_person, opened, refused
from tests.serve.served import Client, Output

NO_ANSWER = "The server doesn't answer. Is shopframe serve still running?"


def said(page: Page):
    return page.get_by_role("status")


def failed(page: Page):
    return page.get_by_role("alert")


def select(page: Page, *numbers: int) -> None:
    for number in numbers:
        page.get_by_label(f"Select person {number}", exact=True).check()


# --- refused and lost ---


@pytest.mark.parametrize("typed", ["500", "12.5"])
def test_a_refused_value_is_said_and_the_field_goes_back(page: Page, output: Output, typed: str):
    open_person(page, 1)
    page.keyboard.press("e")
    page.keyboard.type(typed)
    page.keyboard.press("Enter")
    expect(failed(page)).to_have_text(
        f"exact_age: {typed} is none of its values, which are the whole numbers from 0 to 120"
    )
    expect(said(page)).to_be_empty()
    expect(page.get_by_label("exact age", exact=True)).to_have_value("40")
    assert len(refused(page)) == 1
    page.keyboard.press("e")
    page.keyboard.type("44")
    page.keyboard.press("Enter")
    expect(said(page)).to_have_text("Person 1: exact age is 44")
    expect(failed(page)).to_be_empty()
    assert [d.value for d in output.decisions()] == [44]


def test_a_refused_value_for_several_persons_is_said(page: Page, output: Output):
    select(page, 0, 1, 2, 3)
    page.get_by_label("Attribute", exact=True).select_option("exact_age")
    for typed in ("500", "12.5"):
        page.get_by_label("New value").fill(typed)
        page.get_by_role("button", name="Set", exact=True).click()
        expect(failed(page)).to_contain_text(f"exact_age: {typed} is none of its values")
        expect(said(page)).to_be_empty()
    assert len(refused(page)) == 2
    assert output.decisions() == []


def test_what_the_page_could_not_send_is_not_said_to_be_saved(browser: Browser, output: Output):
    with output.served() as client:
        page = opened(browser, client)
        select(page, 3)
        page.get_by_role("button", name="Not a person").click()
        expect(said(page)).to_have_text("Person 3: not a person")
        open_person(page, 1)
    gender = page.get_by_label("gender", exact=True)
    for key in ("g", "x", "u", "Enter", "n"):
        page.keyboard.press(key)
        expect(failed(page)).to_have_text(NO_ANSWER)
        expect(said(page)).to_be_empty()
        expect(gender).to_have_value('"female"')
        # The next failure is another one.
        page.evaluate("document.getElementById('failed').textContent = ''")
    expect(page.locator("#person-title")).to_have_text("Person 1")
    assert [d.kind for d in output.decisions()] == ["not_a_person"]
    page.context.close()


def test_what_is_set_for_several_is_not_said_to_be_saved_without_a_server(browser: Browser, output: Output):
    with output.served() as client:
        page = opened(browser, client)
        select(page, 0, 1)
    for name in ("Set", "All is right", "Not a person"):
        page.get_by_role("button", name=name, exact=True).click()
        expect(failed(page)).to_have_text(NO_ANSWER)
        expect(said(page)).to_be_empty()
        page.evaluate("document.getElementById('failed').textContent = ''")
    assert output.decisions() == []
    page.context.close()


def test_the_wall_goes_on_where_a_person_could_not_be_opened(browser: Browser, output: Output):
    with output.served() as client:
        page = opened(browser, client)
    page.locator('#wall [data-id="1"] .open').click()
    expect(failed(page)).to_have_text(NO_ANSWER)
    page.keyboard.press("ArrowRight")
    expect(page.locator('#wall [data-id="2"] .open')).to_be_focused()
    page.context.close()


# --- undone ---


def test_undo_says_what_it_takes_back_and_knows_only_what_this_page_did(page: Page, output: Output):
    open_person(page, 1)
    page.keyboard.press("Enter")
    expect(page.locator("#person-title")).to_have_text("Person 2")
    expect(said(page)).to_have_text("Person 1: all is right (11 values)")
    undo = page.locator("#undo")
    expect(undo).to_have_attribute("title", "Takes back: person 1, all is right (11 values)")
    page.keyboard.press("u")
    expect(said(page)).to_have_text("Taken back: person 1, all is right (11 values)")
    page.keyboard.press("k")
    expect(page.locator("#person-title")).to_have_text("Person 1")
    page.keyboard.press("Enter")
    expect(page.locator("#person-title")).to_have_text("Person 2")
    page.reload()
    expect(page.locator("#person-title")).to_have_text("Person 2")
    expect(undo).to_be_disabled()
    page.keyboard.press("u")
    expect(said(page)).to_have_text("Nothing has been decided here since the page was loaded")
    assert [d.kind for d in output.decisions()] == ["value"] * 11 + ["withdrawal"] * 11 + ["value"] * 11


def test_several_persons_are_named_in_what_was_done_and_undone(page: Page):
    select(page, 0, 1)
    page.get_by_role("button", name="Not a person", exact=True).click()
    expect(said(page)).to_have_text("2 persons: not a person")
    page.get_by_role("button", name="All is right", exact=True).click()
    expect(said(page)).to_have_text(re.compile(r"^2 persons: all is right \(\d+ values\)$"))
    page.get_by_role("button", name="Undo").click()
    expect(said(page)).to_have_text(re.compile(r"^Taken back: 2 persons, all is right \(\d+ values\)$"))
    page.get_by_role("button", name="Undo").click()
    expect(said(page)).to_have_text("Taken back: 2 persons, not a person")
    expect(page.get_by_role("button", name="Undo")).to_be_disabled()


# --- redrawn boxes ---


def test_a_box_is_redrawn_saved_and_given_up_by_touch(browser: Browser, client: Client, output: Output):
    page = opened(browser, client, "phone", has_touch=True, is_mobile=True)
    page.locator("#wall .open").first.tap()
    redraw = page.get_by_role("button", name="Redraw the box")
    save = page.get_by_role("button", name="Save the box")
    expect(save).to_be_hidden()
    redraw.tap()
    redraw.tap()
    expect(page.locator(".box.drawn")).to_have_count(1)
    drag_a_box(page, (0.25, 0.25), (0.5, 0.75))
    page.get_by_role("button", name="Cancel").tap()
    expect(page.locator(".box.drawn")).to_have_count(0)
    expect(save).to_be_hidden()
    expect(said(page)).to_have_text("The box stays as it was")
    redraw.tap()
    drag_a_box(page, (0.25, 0.25), (0.5, 0.75))
    redraw.tap()
    expect(page.locator(".box.drawn")).to_have_count(1)
    for name in ("All is right, next", "Next", "Close", "Not a person"):
        page.get_by_role("button", name=name, exact=True).tap()
        expect(failed(page)).to_have_text("The new box is not saved yet: save it, or cancel")
        said_again = "document.getElementById('failed').textContent = ''"
        page.evaluate(said_again)
    page.go_back()
    expect(failed(page)).to_have_text("The new box is not saved yet: save it, or cancel")
    assert output.decisions() == []
    save.tap()
    expect(said(page)).to_have_text("Person 0: another box")
    expect(page.locator(".box.drawn")).to_have_count(0)
    assert [d.new_bbox for d in output.decisions()] == [pytest.approx((0.25, 0.25, 0.5, 0.75), abs=0.01)]
    assert page.errors == []
    page.context.close()


def test_a_box_that_could_not_be_saved_is_still_drawn(browser: Browser, output: Output):
    with output.served() as client:
        page = opened(browser, client)
        open_person(page, 0)
        page.keyboard.press("b")
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(failed(page)).to_have_text(NO_ANSWER)
    expect(page.locator(".box.drawn")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(said(page)).to_have_text("The box stays as it was")
    page.context.close()


# --- fast keys, and the last one ---


def test_each_fast_key_counts(page: Page):
    open_person(page, 0)
    for _ in range(5):
        page.evaluate("document.dispatchEvent(new KeyboardEvent('keydown', { key: 'n', bubbles: true }))")
    expect(page.locator("#person-title")).to_have_text("Person 5")
    page.go_back()
    expect(page.locator("#person-title")).to_have_text("Person 4")


def test_nobody_is_decided_who_was_not_shown(page: Page, output: Output):
    open_person(page, 0)
    page.evaluate("for (const key of ['Enter', 'Enter', 'x']) "
                  "document.dispatchEvent(new KeyboardEvent('keydown', { key }))")  # fmt: skip
    expect(page.locator("#person-title")).to_have_text("Person 1")
    expect(failed(page)).to_have_text("Person 1 was not shown yet, so nothing was decided")
    assert {(d.frame_key, d.kind) for d in output.decisions()} == {("f", "value")}
    assert len({d.bbox for d in output.decisions()}) == 1


def test_the_last_person_of_a_queue_is_said_to_be_the_last(page: Page):
    page.get_by_role("button", name=re.compile("^Rule violations")).click()
    expect(page.locator("#wall .tile")).to_have_count(6)
    page.locator("#wall .open").last.click()
    expect(page.locator("#person")).to_contain_text("6 of 6")
    number = page.locator("#person-title").inner_text()
    page.keyboard.press("n")
    expect(said(page)).to_have_text(f"{number} is the last one of “Rule violations”")
    page.keyboard.press("Enter")
    expect(said(page)).to_have_text(
        f"{number}: all is right (11 values). That was the last person of “Rule violations”"
    )
