"""What the page says about persons and values: names, the order of bars, the models' answers on a phone."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("playwright.sync_api")

from playwright.sync_api import Browser, Page, expect

from tests.serve.browsing import open_person, opened
from tests.serve.served import Client, Output
from tests.support.in_process import run_in_process


def bars(page: Page, title: str) -> list[str]:
    chart = page.locator(".chart", has=page.get_by_role("heading", name=title, exact=True))
    return chart.locator(".bar .name").all_inner_texts()


def test_the_id_that_erase_wants_is_shown_and_copied(
    page: Page, output: Output, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    open_person(page, 13)
    page.get_by_role("button", name="Copy the person id").click()
    expect(page.get_by_role("status")).to_have_text("Copied: b/g/1")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert run_in_process(monkeypatch, "erase", "--output", output.path, "--person", copied) == 0
    assert "1 person" in capsys.readouterr().out


def test_bars_of_values_are_in_the_order_of_the_schema(page: Page, client: Client):
    client.ask("decide", kind="value", ids=[0, 3], attribute="age_group", value="18 to 28")
    page.reload()
    expect(page.locator("#charts .chart").first).to_be_visible()
    assert bars(page, "age group") == ["18 to 28", "28 to 38", "38 to 48", "unknown"]
    assert bars(page, "gender") == ["male", "female", "unknown"]
    assert bars(page, "exact age") == ["40 to 49", "70 to 79", "can't tell"]


def test_persons_without_an_undecided_confidence_are_called_so(page: Page, client: Client):
    client.ask("decide", kind="confirm", ids=[1])
    page.reload()
    bar = page.get_by_role(
        "button", name=re.compile("^Certainty of .*: decided by people, or no confidence, 1 person$")
    )
    bar.click()
    expect(page.locator("#wall-title")).to_have_text("1 person")
    expect(page.locator("#conditions")).to_contain_text("is decided by people, or no confidence")


def test_what_was_chosen_for_several_persons_stays_chosen(page: Page):
    page.get_by_label("Select person 0", exact=True).check()
    attribute, value = page.get_by_label("Attribute", exact=True), page.get_by_label("New value")
    attribute.select_option("cap")
    value.select_option(label="no")
    page.get_by_role("button", name="Set", exact=True).click()
    expect(page.get_by_role("status")).to_have_text("Person 0: cap is no")
    expect(attribute).to_have_value("cap")
    page.get_by_label("Select person 1", exact=True).check()
    expect(attribute).to_have_value("cap")
    expect(value).to_have_value("false")


def test_unknown_and_no_value_are_told_apart(page: Page):
    open_person(page, 0)
    gender = page.get_by_label("gender", exact=True).locator("option")
    assert gender.all_inner_texts() == ["male", "female", "unknown", "can't tell (leave empty)"]
    assert page.get_by_label("cap", exact=True).locator("option").all_inner_texts() == [
        "yes", "no", "can't tell",
    ]  # fmt: skip
    expect(page.locator("#person")).to_contain_text("“unknown” is a value like the others")


def test_a_phone_shows_what_each_model_said(browser: Browser, client: Client):
    page = opened(browser, client, "phone")
    open_person(page, 0)
    for model, text in (("smolvlm", "male 55%"), ("gemini", "female")):
        answer = page.locator(f'tr[data-attribute=gender] td[data-from="{model}"]')
        expect(answer).to_have_text(text)
        box = answer.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
    assert page.evaluate("(({scrollWidth, clientWidth}) => scrollWidth <= clientWidth)"
                         "(document.querySelector('#person .scroll'))")  # fmt: skip
    assert page.errors == []
    page.context.close()


def test_the_link_to_the_persons_keeps_the_view(page: Page):
    page.get_by_role("button", name="gender: female, 9 persons").click()
    expect(page.locator("#wall-title")).to_have_text("9 persons")
    page.get_by_role("link", name="Skip to the persons").press("Enter")
    expect(page.locator("#wall")).to_be_focused()
    expect(page.locator("#wall-title")).to_have_text("9 persons")
