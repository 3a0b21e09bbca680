"""`shopframe report`: exact counts, pictures cut again, and nothing that anybody wrote becomes markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.storage.object_store import ObjectStore
from tests.report.store_output import (
    BLUE,
    HOSTILE,
    HOSTILE_CAMERA,
    LEFT,
    RED,
    Page,
    Shop,
    colour_of,
    colour_of_jpeg,
    picture,
)
from tests.servers.seaweedfs import S3Server
from tests.support import bad_inputs as bad
from tests.support.committed import Found, said, write_output, write_truth
from tests.support.job import consolidated

PERSONS = 12


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The report of an output that no test changes."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield Shop(tmp_path_factory.mktemp("shop"), monkeypatch).report()


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    return Shop(tmp_path, monkeypatch)


def test_the_last_comparison_with_the_truth_is_in_it(shop: Shop, tmp_path: Path):
    assert "Nothing was compared yet" in shop.report().sections["truth"]
    rows = [
        {key: row[key] for key in ("shard_id", "frame_key", "bbox")} | {"gender": row["smolvlm_gender"]}
        for row in consolidated(shop.output)
    ]
    truth = write_truth(tmp_path / "truth.parquet", rows)
    shop.run("evaluate", "--output", shop.output, "--truth", truth)
    section = shop.report().sections["truth"]
    assert f"against {truth} : of 12 persons in 12 frames, 12 were found" in section
    assert "kept detections 12" in section
    assert "gender 12 1.000" in section


def test_counts_add_up(page: Page):
    counts = page.sections["counts"]
    for line in (
        "shards 3 = 2 done + 1 failed + 0 pending yes",
        "frames 15 = 12 ok + 3 failed yes",
        "persons detected 24 = 12 kept + 12 dropped yes",
        "persons dropped 12 = 12 min_height yes",
        "persons kept, at gemini 12 = 11 ok + 1 blocked yes",
        "persons kept, at smolvlm 12 = 12 ok yes",
        "persons kept 12 = 12 rows of consolidated yes",
        "frames 15 = 15 rows of consolidated_frames yes",
    ):
        assert line in counts
    assert " no " not in counts


def test_tables_that_lag_behind_the_records_are_said(shop: Shop):
    for path in (shop.output / "commits").glob("a.json"):
        path.unlink()
    page = shop.report()
    assert "persons kept 2 = 12 rows of consolidated no" in page.sections["counts"]
    assert "run shopframe consolidate" in page.sections["counts"]
    assert "Some counts don't add up" in page.sections[""]


def test_the_report_has_what_the_shop_did(shop: Shop, tmp_path: Path):
    assert "shopframe analyze --output" in shop.report().sections["shop"]
    zones = tmp_path / "zones.yaml"
    zones.write_text("zones: [{name: <b>bakery, kind: till, camera: door, rectangle: [0, 0, 1, 1]}]\n")
    shop.run("analyze", "--zones", zones)
    page = shop.report()
    section = page.sections["shop"]
    assert "From 12 frames between 2024-05-01T09:00:00 and 2024-05-01T09:11:00 (UTC)" in section
    assert "<b>bakery till 1.00 1" in section
    assert re.search(
        r"by gender value share persons in frames male \d+\.\d% \d+ female \d+\.\d% \d+ ", section
    )
    assert "These shares rest on a model's guess: nobody of these persons was drawn at random" in section
    assert "The number of visitors is not known" in section
    pictures = [kept for tag, kept in page.tags if tag == "img" and kept.get("class") == "map"]
    assert len(pictures) == 2


def test_where_nobody_can_be_linked_a_sentence_says_so_once(shop: Shop):
    shop.run("analyze")
    section = shop.report().sections["shop"]
    assert "How long people stand" not in section
    assert section.count("so nobody can be linked, and there is no dwell.") == 1
    assert f"{HOSTILE_CAMERA}, door: No two frames are within analyze.max_link_s" in section


def test_times_are_on_the_clock_of_the_shop(shop: Shop, tmp_path: Path):
    page = shop.report()
    assert page.data["people"][0]["time"] == "2024-05-01 09:00:00 UTC"
    assert "hour (UTC)" in page.sections["cameras"]
    zones = tmp_path / "zones.yaml"
    zones.write_text("timezone: Asia/Tokyo\n")
    shop.run("analyze", "--zones", zones)
    page = shop.report()
    assert page.data["people"][0]["time"] == "2024-05-01 18:00:00 Asia/Tokyo"
    assert "hour (Asia/Tokyo)" in page.sections["cameras"]
    assert "time (Asia/Tokyo)" in page.sections["shop"]
    (hours,) = [
        one["aria-label"] for one in page.all("svg") if str(one["aria-label"]).startswith("Persons by")
    ]
    assert hours == "Persons by hour of the day (Asia/Tokyo): 12 from 18:00"


def test_numbers_say_that_they_are_guesses_until_somebody_decides(shop: Shop):
    page = shop.report()
    assert "every number of persons here is a model's guess" in page.sections["gallery"]
    assert "The numbers of persons are the detector's guess" in page.sections["cameras"]
    assert "persons decided by people 0 " in page.sections[""]
    for attribute in ("gender", "cap", "exact_age"):
        shop.decide("value", "a2", attribute=attribute, value=None, replaces=None)
    shop.run("consolidate")
    page = shop.report()
    assert "are models' guesses where the source isn't a person" in page.sections["gallery"]
    assert "persons decided by people 1 (3 decisions)" in page.sections[""]


def test_failures_are_counted_by_reason(page: Page):
    failures = page.sections["failures"]
    assert "no header at byte # 1 c" in failures
    assert f"truncated {HOSTILE} at # 2 b/b2" in failures
    assert "shard failed: no header at byte 512 1 c/c0" in failures
    assert "blocked safety 1" in failures
    assert "smolvlm has answered about every person" in failures


def test_shares_are_counts_of_final_values(page: Page):
    shares = page.sections["shares"]
    assert "From agreement 9, gemini 2, smolvlm 1." in shares
    assert "male 9 75.0% female 3 25.0%" in shares
    assert "20 to 29 10 83.3%" in shares
    assert "mean 25.5" in shares


def test_agreement_is_that_of_the_persons_whom_both_have_answered(page: Page):
    agreement = page.sections["agreement"]
    # (9/11 - 83/121) / (1 - 83/121), where 83/121 is the agreement by chance
    assert "gender smolvlm, gemini 11 81.8% 52.3% to 94.9% 0.42" in agreement
    assert "male female male 8 2 female 0 1" in agreement
    assert "exact_age smolvlm, gemini 11 100.0% 74.1% to 100.0% 1.00" in agreement
    assert "cap smolvlm, gemini 11 100.0% 74.1% to 100.0% none none" in agreement


def test_confidence_is_that_of_the_models(page: Page):
    # Gemini has no confidence. It says nothing about the first person, so that SmolVLM's 0.55 counts.
    assert "gender 10 0.95 0.95 0.95 1 (10.0%)" in page.sections["confidence"]
    unsure = [person["id"] for person in page.data["people"] if "unsure" in person["traits"]]
    assert unsure == ["a/a0/0"]


def test_drops_are_counted_by_camera_even_where_a_record_names_two(page: Page):
    assert f"{HOSTILE_CAMERA} 11 dropped of 22 detected (50.0%): min_height 11" in page.sections["drops"]
    assert "door 1 dropped of 2 detected (50.0%): min_height 1" in page.sections["drops"]
    pictures = [image for image in page.all("img") if "dropped" in str(image["alt"])]
    assert [colour_of(image["src"]) for image in pictures] == [RED] * 7


def test_the_gallery_has_everybody_cut_from_the_input(page: Page):
    people = page.data["people"]
    assert [person["id"] for person in people[:2]] == ["a/a0/0", "a/a1/0"]
    assert [colour_of(person["picture"]) for person in people] == [BLUE] * PERSONS
    gender = page.data["attributes"].index("gender")
    assert {person["values"][gender] for person in people if "differ" in person["traits"]} == {"female"}
    assert [person["id"] for person in people if "differ" in person["traits"]] == ["a/a4/0", "a/a8/0"]


def test_a_corrected_box_is_shown_and_who_corrected_what_is_counted(shop: Shop):
    shop.decide("box", "a0", new_bbox=(0.6, 0.2, 0.8, 0.8))
    shop.decide("not_a_person", "a1", reviewer="bob")
    shop.decide("value", "a2", attribute="cap", value=True, replaces=False)
    taken_back = shop.decide("value", "a3", attribute="cap", value=True, replaces=False)
    shop.decide("withdrawal", "a3", withdraws=taken_back)
    shop.decide("value", "a4", attribute="cap", value=True, replaces=True)
    shop.run("consolidate")
    page = shop.report()
    corrections = page.sections["corrections"]
    assert "4 decisions about 4 persons count" in corrections
    assert "ann 3 1 1 0 1 0 0 1 via" in corrections
    assert "bob 1 0 0 1 0 0 0 0 via" in corrections
    assert "cap 2 ann 2 1 false → true (1) 2" in corrections
    assert colour_of(page.data["people"][0]["picture"]) == RED
    assert "People have called 1 of the kept detections no person" in page.sections["counts"]
    corrected = [person["id"] for person in page.data["people"] if "human" in person["traits"]]
    assert corrected == ["a/a0/0", "a/a1/0", "a/a2/0", "a/a4/0"]


def test_nothing_that_others_wrote_becomes_markup(shop: Shop):
    shop.decide("value", "a2", reviewer=HOSTILE, attribute="gender", value=HOSTILE, replaces="male")
    shop.run("consolidate")
    page = shop.report()
    assert [
        attributes for attributes in page.all("img") if "src" in attributes and attributes["src"] == "x"
    ] == []
    assert page.all("i") == page.all("b") == []
    assert len(page.all("script")) == len(page.scripts) == 2
    names = {name for _, attributes in page.tags for name in attributes}
    assert [name for name in names if name.startswith("on") or name == "style"] == []
    # It is all there as text.
    assert HOSTILE in page.sections["corrections"]
    assert HOSTILE_CAMERA in page.sections["cameras"]
    assert page.data["people"][0]["answers"]["smolvlm"]["note"] == HOSTILE


def test_the_policy_allows_the_pages_own_script_and_style_and_no_request(page: Page):
    policies = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv")]

    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    assert policies == [
        f"default-src 'none'; style-src {digest(page.style)}; script-src {digest(page.scripts[1])}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    ]
    for _, attributes in page.tags:
        for name in ("src", "href"):
            assert str(attributes.get(name, "#")).startswith(("#", "data:image/jpeg;base64,"))


def test_all_pictures_have_alternative_texts_and_ids_are_unique(page: Page):
    assert all(image["alt"] for image in page.all("img"))
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in page.all("svg"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = set(re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"', page.html))
    assert {name for pair in named for name in pair if name} <= set(ids)


def test_where_the_input_is_gone_it_is_said(shop: Shop, capsys: pytest.CaptureFixture[str]):
    (shop.source / "a.tar").unlink()
    page = shop.report()
    assert "shard a: pictures are missing or from kept crops" in capsys.readouterr().err
    assert f"a : {shop.source}/a.tar is no longer there" in page.sections["gallery"]
    assert ["picture" in person for person in page.data["people"]] == [False] * 10 + [True] * 2
    assert "persons kept 12 = 12 rows of consolidated yes" in page.sections["counts"]


def test_crops_that_were_kept_stand_in_for_an_input_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shop = Shop(tmp_path, monkeypatch, keep_crops="always")
    for path in shop.source.glob("*.tar"):
        path.unlink()
    page = shop.report()
    assert all("picture" in person for person in page.data["people"])
    assert "crops that the output has kept were used" in page.sections["gallery"]


def test_a_sample_says_so_and_counts_stay_exact(shop: Shop):
    page = shop.report("--persons", 5)
    assert len(page.data["people"]) == 5
    assert "5 of 12 persons, drawn at random from 2 shards" in page.sections["gallery"]
    assert "persons kept 12 = 12 rows of consolidated yes" in page.sections["counts"]
    assert shop.report("--persons", 5).data == page.data


def test_pictures_of_more_persons_than_a_file_should_have_are_beside_it(shop: Shop, tmp_path: Path):
    many = 2001
    (shop.source / "d.tar").write_bytes(bad.tar({"d0.jpg": picture()}))
    crowd = [Found(LEFT, score=0.9, answers={"smolvlm": said()})] * (many - PERSONS)
    write_output(shop.store, {"d": {"d0": crowd}}, shop.settings)
    shop.run("consolidate")
    to = tmp_path / "shown"
    (to / "look_pictures").mkdir(parents=True)
    (to / "look_pictures" / "999999.jpg").write_bytes(b"of an earlier report")
    (to / "look_pictures" / "mine.jpg").write_bytes(b"mine")
    shop.run("report", "--persons", 5000, "--to", to / "look.html")
    text = (to / "look.html").read_text()
    people: list[dict[str, Any]] = json.loads(text.partition('id="data">')[2].partition("</script>")[0])[
        "people"
    ]
    assert len(people) == many
    assert [person["picture"] for person in people] == [f"look_pictures/{n:06d}.jpg" for n in range(many)]
    assert colour_of_jpeg((to / people[-1]["picture"]).read_bytes()) == BLUE
    assert len(list((to / "look_pictures").iterdir())) == many + 1
    assert "must stay beside this file" in text
    assert "data:image/jpeg" not in text.partition('id="data">')[2]


def test_it_is_written_to_any_store(shop: Shop, tmp_path: Path):
    shop.run("report", "--to", "memory://shown/look.html")
    text = ObjectStore("memory://shown").read("look.html").decode()
    assert text.startswith("<!DOCTYPE html>")
    assert not (shop.output / "report.html").exists()


def test_it_is_in_the_output_also_in_a_bucket(
    s3: S3Server, s3_environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shop = Shop(tmp_path, monkeypatch, f"s3://{s3.new_bucket()}/out")
    page = shop.report()
    assert "persons kept 12 = 12 rows of consolidated yes" in page.sections["counts"]
    assert [colour_of(person["picture"]) for person in page.data["people"]] == [BLUE] * PERSONS


def test_status_says_where_to_look(shop: Shop, capsys: pytest.CaptureFixture[str]):
    def status() -> tuple[dict[str, Any], str]:
        capsys.readouterr()
        shop.run("status", "--json")
        found = json.loads(capsys.readouterr().out)["places"]
        shop.run("status")
        return found, capsys.readouterr().out

    places, text = status()
    assert places == {
        "previews": None,
        "report": None,
        "review": f"shopframe serve --output {shop.output}",
    }
    assert f"shopframe report --output {shop.output} writes it" in text
    shop.run("report")
    places, text = status()
    assert places["report"] == str(shop.output / "report.html")
    assert f"report: {shop.output}/report.html" in text


def test_an_output_without_persons_has_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shop = Shop(tmp_path, monkeypatch)
    write_output(shop.store, {name: {} for name in "abc"}, shop.settings)
    shop.run("consolidate")
    page = shop.report()
    assert page.data["people"] == []
    assert "No person was dropped" in page.sections["drops"]


def test_an_output_that_was_never_consolidated_says_what_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    shop = Shop(tmp_path, monkeypatch)
    for path in (shop.output / "consolidated" / "_delta_log").iterdir():
        path.unlink()
    shop.run("report", expect=2)
    assert "run shopframe consolidate" in capsys.readouterr().err
