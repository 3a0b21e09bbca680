"""The API of `shopframe serve`, over HTTP: who is answered, what is shown, and what is decided."""

from __future__ import annotations

import io
import re
import signal
import subprocess
import sys
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

from actors.corrections.draw import in_words
from tests.conftest import REPO_ROOT
from tests.serve.served import MIDDLE, RIGHT, Client, Output


def equals(column: str, value: Any) -> dict[str, Any]:
    return {"column": column, "value": value}


# --- who is answered ---


def test_the_page_is_answered_with_a_strict_policy(client: Client):
    status, headers, body = client.get("")
    assert status == 200
    assert b"<title>Shopframe</title>" in body
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"


def test_a_request_without_the_token_is_refused(client: Client):
    place = urlsplit(client.address)
    wrong = f"{place.scheme}://{place.netloc}"
    for path in ("/", "/api/about", f"/{'x' * 32}/", f"{place.path[:-2]}/"):
        status, _, body = client.get(wrong + path)
        assert (status, b"token" in body) == (403, True), path


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:8440"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_request_from_elsewhere_is_refused(client: Client, headers: dict[str, str]):
    assert client.get("", headers)[0] == 403


def test_a_form_of_another_page_decides_nothing(client: Client, output: Output):
    action = {"kind": "not_a_person", "ids": [0]}
    assert client.post("decide", action, Content_Type="text/plain")[0] == 415
    assert output.decisions() == []


def test_the_command_prints_an_address_that_answers_and_ends_with_success(output: Output):
    command = [sys.executable, "-m", "jobs.serve", "--output", output.path, "--port", "0"]
    with subprocess.Popen(
        [*map(str, command), "--cache", str(output.cache)],
        cwd=REPO_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            address = process.stdout.readline().strip()
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", address)
            assert Client(address).ask("persons")["count"] == 18
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0
    assert "all decisions are in the output" in errors


# --- what is shown ---


def test_persons_come_page_by_page_in_the_order_of_frames(client: Client):
    first = client.ask("persons", limit=5)
    second = client.ask("persons", after=5, limit=5)
    assert first["count"] == 18
    assert [p["id"] for p in first["persons"] + second["persons"]] == list(range(10))
    person = first["persons"][0]
    assert (person["camera"], person["values"]["gender"], person["sources"]["gender"]) == (
        "till", "female", "gemini",
    )  # fmt: skip
    assert person["disagrees"] == ["gender", "exact_age"]


@pytest.mark.parametrize(
    ("conditions", "count"),
    [
        ([equals("camera", "till")], 12),
        ([equals("camera", "nowhere")], 0),
        ([equals("gender", "female")], 9),
        ([equals("gender", "female"), equals("gender", "male")], 12),
        ([equals("gender", "female"), equals("camera", "till")], 6),
        ([equals("exact_age", None)], 6),
        ([equals("gender_source", "smolvlm")], 6),
        ([{"column": "gender_confidence", "operator": "<", "value": 0.75}], 8),
        ([equals("gender_disagrees", True)], 3),
        ([equals("rule", "any")], 6),
        ([equals("rule", "exact_age within age_group")], 6),
        ([equals("verdict", "min_height")], 6),
        ([equals("hour", None)], 6),
        ([equals("hour", 9)], 12),
        ([equals("day", "2026-05-02")], 6),
        ([{"column": "captured_at", "operator": ">=", "value": "2026-05-01T12:00"}], 6),
        ([{"column": "gender", "operator": "!=", "value": "female"}], 9),
    ],
)
def test_filters(client: Client, conditions: list[dict[str, Any]], count: int):
    assert client.ask("persons", view={"conditions": conditions})["count"] == count


@pytest.mark.parametrize(
    "condition",
    [
        {"column": "no_such"},
        {"column": "gender; DROP TABLE persons", "value": "x"},
        {"column": "gender", "operator": "LIKE", "value": "x"},
        {"column": "gender", "operator": "<"},
        {"column": "rule", "value": "no such rule"},
    ],
)
def test_a_wrong_filter_is_explained(client: Client, condition: dict[str, Any]):
    status, answer = client.post("persons", {"view": {"conditions": [condition]}})
    assert status == 400
    assert answer["error"]
    assert client.ask("persons")["count"] == 18


def test_charts_count_the_selection_and_keep_their_own_bars(client: Client):
    view = {"conditions": [equals("gender", "female"), equals("camera", "till")]}
    columns = ["gender", "camera", "exact_age", "gender_source", "gender_confidence", "rule", "verdict"]
    charts = {chart["column"]: chart["bars"] for chart in client.ask("charts", view=view, columns=columns)}

    def bars(column: str) -> dict[Any, int]:
        return {bar["value"]: bar["count"] for bar in charts[column]}

    assert bars("gender") == {"female": 6, "unknown": 4, "male": 2}
    assert bars("camera") == {"till": 6, "<b>door</b>": 3}
    assert bars("exact_age") == {40.0: 4, 70.0: 2}
    assert bars("gender_source") == {"agreement": 4, "gemini": 2}
    assert bars("gender_confidence") == {0.9: 4, None: 2}
    assert bars("rule") == {"exact_age within age_group": 2, "mask implies facing_camera is not null": 0,
                            "at most one of hood, headscarf": 0}  # fmt: skip


def test_charts_of_verdicts_and_of_those_who_are_no_person_keep_all_bars(client: Client):
    client.ask("decide", kind="not_a_person", ids=[2, 5])
    verdict, is_person = client.ask("charts", columns=["verdict", "is_person"])
    assert {bar["value"]: bar["count"] for bar in verdict["bars"]} == {"kept": 16, "min_height": 6}
    assert {bar["value"]: bar["count"] for bar in is_person["bars"]} == {True: 16, False: 2}


def test_only_the_files_of_the_page_are_served(client: Client):
    assert client.get("main.js")[0] == 200
    for name in ("__init__.py", "no_such.js", "../server.py", "..%2Fserver.py"):
        assert client.get(name)[0] in (403, 404), name


def test_a_bar_is_the_filter_of_its_persons(client: Client):
    for column in ("gender", "camera", "exact_age", "gender_confidence", "certainty", "decided", "hour"):
        (chart,) = client.ask("charts", columns=[column])
        for bar in chart["bars"]:
            conditions = [equals(column, bar["value"])]
            if bar["above"] is not None and bar["value"] is not None:
                low = {"column": column, "operator": ">=", "value": bar["value"]}
                conditions = [low, {"column": column, "operator": "<", "value": bar["above"]}]
            assert client.ask("persons", view={"conditions": conditions})["count"] == bar["count"], (
                column,
                bar,
            )


def test_thumbnails_are_cut_from_the_input_and_kept_on_this_machine_only(client: Client, output: Output):
    status, headers, body = client.get("thumbnails/1")
    assert (status, headers["Content-Type"]) == (200, "image/jpeg")
    with Image.open(io.BytesIO(body)) as image:
        width, height = image.size
    assert height == 256
    # The box is 200 x 600 pixels, and has a margin of a tenth on each side.
    assert width == pytest.approx(256 * 240 / 720, abs=1)
    for tar in output.source.iterdir():
        tar.unlink()
    assert client.get("thumbnails/1")[2] == body
    status, _, answer = client.get("thumbnails/9")
    assert (status, b"no longer there" in answer) == (404, True)
    assert not [path for path in output.path.rglob("*.jpg") if "previews" not in path.parts]


def test_the_frame_of_a_person_is_as_it_was(client: Client, output: Output):
    status, headers, body = client.get("frames/4")
    assert (status, headers["Content-Type"]) == (200, "image/jpeg")
    with Image.open(io.BytesIO(body)) as image:
        assert image.size == (2000, 1000)


def test_a_person_has_both_answers_the_whole_frame_and_neighbours(client: Client):
    person = client.ask("person", id=0)
    assert person["answers"]["smolvlm"]["values"]["gender"] == "male"
    assert person["answers"]["smolvlm"]["confidences"]["gender"] == pytest.approx(0.55)
    assert person["answers"]["gemini"]["values"]["gender"] == "female"
    assert [other["id"] for other in person["frame"]] == [0, 1, 2]
    assert [dropped["reason"] for dropped in person["dropped"]] == ["min_height"]
    assert "exact_age within age_group" in person["rules"]
    assert person["captured_at"] == "2026-05-01 09:30:00"
    assert (person["previous"], person["next"], person["count"]) == (None, 1, 18)


def test_a_new_consolidation_is_seen_although_the_old_files_are_gone(client: Client, output: Output):
    client.ask("decide", kind="value", ids=[1], attribute="gender", value="male")
    output.consolidate()
    assert client.ask("person", id=1)["values"]["gender"] == "male"
    assert client.ask("about")["unsaved"] == 0


# --- what is decided ---


def test_a_value_is_shown_at_once_and_final_after_a_consolidation(client: Client, output: Output):
    answer = client.ask("decide", kind="value", ids=[1], attribute="gender", value="male")
    (person,) = answer["persons"]
    assert (person["values"]["gender"], person["sources"]["gender"], person["confidences"]["gender"]) == (
        "male", "human", 1.0,
    )  # fmt: skip
    assert answer["unsaved"] == 1
    assert client.ids("all", equals("gender_source", "human")) == [1]
    (decision,) = output.decisions()
    assert (decision.kind, decision.attribute, decision.value, decision.replaces) == (
        "value", "gender", "male", "female",
    )  # fmt: skip
    assert (decision.reviewer, decision.tool, decision.sampling) == ("ann", "serve", "need")
    assert decision.bbox == pytest.approx(MIDDLE)
    output.consolidate()
    assert output.rows("gender, gender_source", "frame_key = 'f'")[1] == ("male", "human")


def test_many_persons_get_one_value_at_once_and_lose_it_together(client: Client, output: Output):
    before = client.ask("persons")["persons"]
    decided = client.ask("decide", kind="value", ids=[0, 4, 12], attribute="mask", value=None)
    assert len(output.decisions()) == 3
    assert len(list((output.path / "corrections").iterdir())) == 1
    assert client.ids("all", equals("mask_source", "human")) == [0, 4, 12]
    undone = client.ask("undo", action=decided["action"])
    assert ([p["id"] for p in undone["persons"]], undone["unsaved"]) == ([0, 4, 12], 0)
    status, answer = client.post("undo", {"action": decided["action"]})
    assert (status, "can't be taken back" in answer["error"]) == (400, True)
    assert client.ask("persons", fresh=True)["persons"] == before
    output.consolidate()
    assert output.rows("1", "mask_source = 'human'") == []


def test_not_a_person_leaves_the_wall_and_comes_back(client: Client, output: Output):
    client.ask("decide", kind="not_a_person", ids=[2])
    assert 2 not in client.ids()
    assert client.ids("all", equals("is_person", False)) == [2]
    again = client.ask("decide", kind="person", ids=[2])
    assert 2 in client.ids()
    client.ask("undo", action=again["action"])
    assert 2 not in client.ids()
    output.consolidate()
    assert output.rows("is_person", "frame_key = 'f' AND shard_id = 'a'") == [(True,), (True,), (False,)]


def test_a_redrawn_box(client: Client, output: Output):
    client.ask("decide", kind="box", ids=[2], box=[0.6, 0.3, 0.8, 1.0])
    assert client.ask("person", id=2)["box"] == pytest.approx([0.6, 0.3, 0.8, 1.0])
    (decision,) = output.decisions()
    assert decision.bbox == pytest.approx(RIGHT)
    assert decision.new_bbox == pytest.approx((0.6, 0.3, 0.8, 1.0))


def test_the_history_has_what_counts_and_what_was_withdrawn(client: Client):
    made = client.ask("decide", kind="value", ids=[1], attribute="gender", value="male")
    client.ask("undo", action=made["action"])
    client.ask("decide", kind="value", ids=[1], attribute="gender", value="unknown")
    history = client.ask("person", id=1)["history"]
    assert [(d["kind"], d["value"], d["counts"]) for d in history] == [
        ("value", "unknown", True), ("withdrawal", None, False), ("value", "male", False),
    ]  # fmt: skip
    assert client.ask("person", id=0)["history"] == []


@pytest.mark.parametrize(
    "action",
    [
        {"kind": "value", "ids": [0], "attribute": "gender", "value": "robot"},
        {"kind": "value", "ids": [0], "attribute": "glasses", "value": 1},
        {"kind": "value", "ids": [0], "attribute": "exact_age", "value": 500},
        {"kind": "value", "ids": [0], "attribute": "exact_age", "value": 12.5},
        {"kind": "value", "ids": [0], "attribute": "colour", "value": "red"},
        {"kind": "value", "ids": [0, 999], "attribute": "gender", "value": "male"},
        {"kind": "box", "ids": [0]},
        {"kind": "box", "ids": [0], "box": [0.5, 0.5, 0.5, 0.9]},
        {"kind": "value", "ids": [], "attribute": "gender", "value": "male"},
        {"kind": "anything", "ids": [0]},
    ],
)
def test_a_decision_that_makes_no_sense_is_refused(client: Client, output: Output, action: dict[str, Any]):
    status, answer = client.post("decide", action)
    assert status == 400
    assert answer["error"]
    assert output.decisions() == []


def test_a_decision_of_another_tool_is_seen_when_the_page_is_loaded(client: Client, output: Output):
    with output.served() as other:
        other.ask("decide", kind="value", ids=[1], attribute="gender", value="male")
    assert client.ask("about")["unsaved"] == 1
    assert client.ask("person", id=1)["values"]["gender"] == "male"


# --- queues ---


def test_queues_begin_with_those_who_need_it_most_and_lose_the_decided(client: Client, output: Output):
    uncertain = client.ids("least_certain")
    assert len(uncertain) == 2
    assert all(client.ask("person", id=number)["place"] is not None for number in uncertain)
    sure = [client.ask("person", id=number)["certainty"] for number in uncertain]
    assert sure == sorted(sure)
    disagreeing = client.ids("disagreeing")
    assert len(disagreeing) == 3
    for number in disagreeing:
        client.ask("decide", kind="confirm", ids=[number], view={"queue": "disagreeing"})
    assert client.ids("disagreeing") == []
    assert {d.queue for d in output.decisions()} == {"disagreeing"}
    assert client.ids("rare") == []


def test_the_next_hundred_are_expected_to_change_like_those_before(client: Client):
    view = {"queue": "violations"}
    before = client.ask("queue", view=view)
    assert (before["left"], before["decided"], before["expected"]) == (6, 0, None)
    first, second, *_ = client.ids("violations")
    client.ask("decide", kind="confirm", ids=[first], view=view)
    client.ask("decide", kind="value", ids=[second], attribute="exact_age", value=30, view=view)
    after = client.ask("queue", view=view)
    assert (before["sizes"]["violations"], after["sizes"]["violations"]) == (6, 4)
    assert (after["left"], after["decided"], after["changed"], after["next"]) == (4, 2, 1, 4)
    share, low, high = after["expected"]
    assert share == pytest.approx(2)
    assert 0 < low < share < high < 4


def test_an_audit_draws_the_same_persons_again_and_records_their_probability(client: Client, output: Output):
    view = {"queue": "audit", "size": 6, "seed": 3}
    drawn = client.ids(**view)
    assert len(set(drawn)) == 6
    assert drawn != sorted(drawn)
    assert client.ids("audit", size=6, seed=4) != drawn
    client.ask("decide", kind="confirm", ids=drawn[:2], view=view)
    client.ask("decide", kind="not_a_person", ids=drawn[2:3], view=view)
    assert {(d.sampling, d.probability) for d in output.decisions()} == {("random", 6 / 18)}
    state = client.ask("queue", view=view)
    assert (state["left"], state["decided"], state["changed"]) == (3, 3, 1)
    with output.served() as again:
        assert again.ids(**view) == drawn
        assert again.ask("queue", view=view) == state


def test_an_audit_records_its_filters_and_asks_anew_about_persons_of_another_one(
    client: Client, output: Output
):
    camera = client.ask("person", id=0)["camera"]
    here = [{"column": "camera", "operator": "=", "value": camera}]
    everybody = {"queue": "audit", "size": 18, "seed": 3}
    filtered = everybody | {"conditions": here}
    drawn = client.ids(**filtered)
    assert 0 < len(drawn) < 18
    assert client.ids(**everybody) != drawn
    client.ask("decide", kind="confirm", ids=drawn[:1], view=everybody)
    assert client.ask("queue", view=filtered)["left"] == len(drawn)
    client.ask("decide", kind="confirm", ids=drawn[:1], view=filtered)
    assert client.ask("queue", view=filtered)["left"] == len(drawn) - 1
    draws = {(d.draw.name, in_words(d.draw.among), d.probability) for d in output.decisions() if d.draw}
    assert draws == {("sample 3", "everybody", 1.0), ("sample 3", f"camera={camera}", 1.0)}
    assert client.ask("persons", view=filtered)["by_values"] == []
    unsure = [{"column": "gender_confidence", "operator": "<", "value": 0.9}]
    assert client.ask("persons", view=everybody | {"conditions": unsure})["by_values"] == [
        "gender_confidence"
    ]


def test_an_audit_is_finished_with_persons_that_were_decided_before(client: Client, output: Output):
    everybody = list(range(18))
    client.ask("decide", kind="confirm", ids=everybody)
    view = {"queue": "audit", "size": 6, "seed": 3}
    drawn = client.ids(**view)
    client.ask("decide", kind="value", ids=drawn[:1], attribute="cap", value=False, view=view)
    client.ask("decide", kind="confirm", ids=drawn, view=view)
    state = client.ask("queue", view=view)
    assert (state["left"], state["decided"], state["changed"]) == (0, 6, 1)
    audited = [d for d in output.decisions() if d.queue == "audit"]
    assert len(audited) == len({(d.shard_id, d.frame_key, d.bbox, d.attribute) for d in audited})


def test_an_audit_records_who_was_called_no_person_before(client: Client, output: Output):
    view = {"queue": "audit", "size": 6, "seed": 3}
    first, second, *_ = client.ids(**view)
    client.ask("decide", kind="not_a_person", ids=[first, second])
    by_need = output.decisions()
    for _ in range(2):
        client.ask("decide", kind="confirm", ids=[first], view=view)
        client.ask("decide", kind="not_a_person", ids=[second], view=view)
    made = [d for d in output.decisions() if d not in by_need]
    assert {(d.kind, d.sampling, d.draw.name) for d in made if d.draw} == {
        ("not_a_person", "random", "sample 3")
    }
    assert len(made) == 2
    assert client.ask("queue", view=view)["left"] == 4
