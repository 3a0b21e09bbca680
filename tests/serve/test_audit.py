"""In an audit the page asks about values that are withheld, which "All is right" can't confirm."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np
import pytest

from actors.corrections.decision_log import read_decisions
from actors.storage.object_store import ObjectStore
from jobs.settings import Settings
from tests.serve.served import Client, served
from tests.support.committed import said
from tests.support.gold import GoldOutput, Labelled, gold_output
from tests.support.in_process import run_in_process

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PERSONS, LABELLED = 140, 110
VIEW = {"queue": "audit", "size": PERSONS, "seed": 1}


def people() -> list[Labelled]:
    """Persons about whose gender a model is as often right as wrong, whatever it says."""
    rng = np.random.default_rng(5)
    found = []
    for n in range(PERSONS):
        true, answer = rng.choice(["male", "female"], 2).tolist()
        answers = {"smolvlm": said({"gender": float(rng.uniform(0.5, 1))}, gender=answer)}
        found.append(Labelled({"gender": true}, answers, minute=n // 4))
    return found


@pytest.fixture(scope="module")
def withheld(tmp_path_factory: pytest.TempPathFactory) -> GoldOutput:
    """An output in which every gender that nobody has decided is withheld."""
    settings = Settings.model_validate({"consensus": {"min_accuracy": {"gender": 0.95}}})
    store = ObjectStore(str(tmp_path_factory.mktemp("withheld") / "out"))
    output = gold_output(store, people(), settings)
    output.decide(range(LABELLED), LABELLED / PERSONS)
    with pytest.MonkeyPatch.context() as patch:
        options = ["--output", store.uri, "--truth", "corrections", "--calibrate"]
        assert run_in_process(patch, "evaluate", *options) == 0
    output.consolidate()
    return output


@pytest.fixture
def client(withheld: GoldOutput, tmp_path) -> Iterator[Client]:
    before = {info.path for info in withheld.store.list("corrections")}
    with served(withheld.store, tmp_path / "cache") as client:
        yield client
    withheld.store.delete(info.path for info in withheld.store.list("corrections") if info.path not in before)


def hard(client: Client) -> list[int]:
    """The drawn persons whose gender is withheld."""
    drawn = client.ask("persons", view=VIEW, limit=PERSONS)["persons"]
    return [person["id"] for person in drawn if person["sources"]["gender"] == "abstained"]


def test_what_a_confirmation_leaves_undecided_is_named_and_counted(client: Client):
    some = hard(client)
    assert len(some) == PERSONS - LABELLED
    confirmed = client.ask("decide", kind="confirm", ids=some[:3], view=VIEW)
    assert [person["undecided"] for person in confirmed["persons"]] == [["gender"]] * 3
    assert client.ask("queue", view=VIEW)["incomplete"] == 3
    client.ask("decide", kind="value", ids=some[:1], attribute="gender", value=None, view=VIEW)
    client.ask("decide", kind="not_a_person", ids=some[1:2], view=VIEW)
    state = client.ask("queue", view=VIEW)
    assert (state["incomplete"], state["left"]) == (1, PERSONS - 3)
    assert client.ask("person", id=some[2], view=VIEW)["undecided"] == ["gender"]
    # Elsewhere nobody is asked for it: a reviewer by need looks at what is wrong.
    assert client.ask("person", id=some[2])["undecided"] == []
    # Values that people have given can be confirmed.
    easy = next(number for number in client.ids(**VIEW) if number not in some)
    confirmed = client.ask("decide", kind="confirm", ids=[easy], view=VIEW)
    assert [person["undecided"] for person in confirmed["persons"]] == [[]]


def test_the_page_stays_at_a_person_until_withheld_values_are_decided(
    browser: Browser, client: Client, withheld: GoldOutput
):
    browsing = pytest.importorskip("tests.serve.browsing")
    expect = browsing.expect
    first, second = hard(client)[:2]
    page = browsing.opened(browser, client, count=PERSONS)
    page.goto(f"{client.address}#{quote(json.dumps(VIEW | {'after': 0, 'person': first}))}")
    expect(page.locator("#person-title")).to_have_text(f"Person {first}")
    field = page.get_by_label("gender", exact=True)
    expect(field.locator("option:checked")).to_have_text("not decided")
    expect(page.locator("#undecided")).to_contain_text("“All is right” doesn't decide gender")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("Still to decide: gender")
    expect(page.locator("#person-title")).to_have_text(f"Person {first}")
    page.locator("#unknown-gender").click()
    expect(page.locator("#undecided")).to_have_count(0)
    expect(field.locator("option:checked")).to_have_text(re.compile("^can't tell"))
    page.keyboard.press("Enter")
    expect(page.locator("#person-title")).not_to_have_text(f"Person {first}")
    page.keyboard.press("Escape")
    page.get_by_label(f"Select person {second}", exact=True).check()
    page.get_by_role("button", name="All is right", exact=True).click()
    expect(page.get_by_role("status")).to_contain_text("Still to decide: gender")
    expect(page.locator(f'#wall [data-id="{second}"]')).to_contain_text("to decide: gender")
    expect(page.locator("#left")).to_contain_text("Of 1 person a value that is missing or withheld is still")
    made = [d for of in read_decisions(withheld.store).values() for d in of if d.queue == "audit"]
    (gender,) = [d for d in made if d.attribute == "gender"]
    assert (gender.value, gender.sampling) == (None, "random")
    browsing.refused(page)
    assert page.errors == []
    page.context.close()
