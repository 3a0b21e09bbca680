"""Decisions on a page whose persons have changed in the output since it was loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.serve.served import Client, Output
from tests.support.in_process import run_in_process

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def test_a_decision_about_somebody_who_was_erased_meanwhile_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    output = Output(tmp_path, monkeypatch)
    with output.served() as client:
        erase = ("erase", "--output", output.path, "--person", "a/f/1", "--yes", "--cache", output.cache)
        assert run_in_process(monkeypatch, *erase) == 0
        status, answer = client.post("decide", {"kind": "not_a_person", "ids": [1, 2]})
    assert (status, "was erased" in answer["error"]) == (400, True)
    assert output.decisions() == []


def test_a_page_whose_persons_have_other_numbers_by_now_decides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    output = Output(tmp_path, monkeypatch)
    with output.served() as client:
        table = client.ask("about")["table"]
        erase = ("erase", "--output", output.path, "--person", "a/f/0", "--yes", "--cache", output.cache)
        assert run_in_process(monkeypatch, *erase) == 0
        # Another page is loaded, and with it the newest table.
        assert client.ask("about")["table"] != table
        status, answer = client.post("decide", {"kind": "not_a_person", "ids": [5], "table": table})
    assert (status, "reload the page" in answer["error"]) == (400, True)
    assert output.decisions() == []


def test_a_decision_is_made_once_although_the_old_files_are_gone(client: Client, output: Output):
    table = client.ask("about")["table"]
    client.ask("decide", kind="value", ids=[1], attribute="gender", value="male", table=table)
    output.consolidate()
    made = client.ask("decide", kind="value", ids=[1], attribute="gender", value="unknown", table=table)
    assert [person["values"]["gender"] for person in made["persons"]] == ["unknown"]
    assert [decision.value for decision in output.decisions()] == ["male", "unknown"]
    undone = client.ask("undo", action=made["action"])
    assert [person["values"]["gender"] for person in undone["persons"]] == ["male"]
    assert client.ask("about")["table"] == table


def test_a_page_of_former_persons_says_that_it_must_be_loaded_again(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    browsing = pytest.importorskip("tests.serve.browsing", reason="needs playwright", exc_type=ImportError)
    output = Output(tmp_path, monkeypatch)
    with output.served() as client:
        page = browsing.opened(browser, client)
        browsing.open_person(page, 5)
        erase = ("erase", "--output", output.path, "--person", "a/f/0", "--yes", "--cache", output.cache)
        assert run_in_process(monkeypatch, *erase) == 0
        client.ask("about")
        page.keyboard.press("x")
        page.get_by_role("alert").get_by_text("reload the page").wait_for()
        page.context.close()
    assert output.decisions() == []
