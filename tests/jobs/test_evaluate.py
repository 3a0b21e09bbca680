"""Evaluation of outputs against ground truth; the expected measures were worked out by hand."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from actors.records import Annotation
from actors.storage.object_store import ObjectStore
from jobs import cli, command
from jobs.evaluation.reliability import reliability
from tests.support import job, without_ray
from tests.support.committed import SCHEMA, Found, said, write_output, write_truth
from tests.support.job import Models

LEFT, RIGHT = [0.1, 0.1, 0.3, 0.5], [0.6, 0.1, 0.8, 0.5]
NOBODY = [0.4, 0.6, 0.5, 0.9]


@pytest.fixture
def output(tmp_path) -> ObjectStore:
    return ObjectStore(str(tmp_path / "out"))


@pytest.fixture
def run(capsys, monkeypatch):
    """A function that runs `evaluate` in this process, and returns its exit code, stdout and stderr."""

    def run_it(*arguments: object) -> tuple[int, str, str]:
        codes: list[int] = []
        monkeypatch.setattr(command.os, "_exit", codes.append)
        capsys.readouterr()
        cli.main(["evaluate", *map(str, arguments)])
        said = capsys.readouterr()
        return codes[0], said.out, said.err

    return run_it


@pytest.fixture
def evaluated(run, output, tmp_path):
    """A function that evaluates the output against rows of ground truth, and returns the JSON object."""

    def evaluate_it(rows, *options: object):
        truth = write_truth(tmp_path / "truth.parquet", rows)
        code, out, err = run("--output", output.uri, "--truth", truth, "--json", *options)
        assert code == 0, err
        return json.loads(out)

    return evaluate_it


def row(bbox, frame_key="f", **columns):
    return {"frame_key": frame_key, "bbox": bbox, **columns}


def column_of(places: int) -> list[list[float]]:
    """Return boxes of the given number of people beside each other."""
    return [[i / places, 0.2, (i + 0.9) / places, 0.8] for i in range(places)]


# --- detection ---


def test_average_precision_of_a_case_worked_out_by_hand(output, evaluated):
    # The box of the second person covers two thirds of the true box, so it matches at the IoU thresholds up
    # to 0.65, which are the first four of ten.
    two_thirds = [0.6, 0.1, 0.6 + 0.2 * 2 / 3, 0.5]
    write_output(output, {"s": {"f": [Found(LEFT, 0.9), Found(NOBODY, 0.8), Found(two_thirds, 0.7)]}})
    found = evaluated([row(LEFT), row(RIGHT)])["detection"]["all"]
    # The first detection, which is right, gives precision 1 at the 51 recalls from 0 to 0.50. The 50 recalls
    # from 0.51 to 1 need all three detections, which gives precision 2/3.
    ap50 = (51 * 1 + 50 * 2 / 3) / 101
    assert found["ap50"] == pytest.approx(ap50)
    assert found["ap50_95"] == pytest.approx((4 * ap50 + 6 * 51 / 101) / 10)
    assert (found["precision"]["hits"], found["precision"]["n"]) == (2, 3)
    assert found["recall"]["share"] == 1
    assert found["precision_at_recall"]["0.50"][50:52] == pytest.approx([1, 2 / 3])
    assert found["precision_at_recall"]["0.75"][51] == 0


def test_the_higher_score_gets_the_person_and_a_second_box_is_of_nobody(output, evaluated):
    twice = [0.1, 0.1, 0.29, 0.5]
    write_output(output, {"s": {"f": [Found(LEFT, 0.5), Found(twice, 0.6)]}})
    found = evaluated([row(LEFT)])
    assert found["persons"] == {
        "truth": 1, "matched": 1, "dropped": 0, "missed": 0, "kept": 2, "unmatched": 1,
    }  # fmt: skip
    # The false detection has the lower score, so it comes after the only person has been found.
    assert found["detection"]["all"]["ap50"] == pytest.approx(1)


def test_what_the_roi_dropped_counts_among_all_detections_only(output, evaluated):
    write_output(output, {"s": {"f": [Found(LEFT, 0.9), Found(RIGHT, 0.8, kept=False)]}})
    found = evaluated([row(LEFT), row(RIGHT), row(NOBODY)])
    assert {k: found["persons"][k] for k in ("matched", "dropped", "missed")} == {
        "matched": 1,
        "dropped": 1,
        "missed": 1,
    }
    assert found["detection"]["all"]["recall"]["hits"] == 2
    assert found["detection"]["kept"]["recall"]["hits"] == 1


def test_recall_is_given_by_the_height_of_the_true_box_in_pixels(output, evaluated):
    small = [0.1, 0.1, 0.2, 0.13]  # 30 pixels high in a frame of 1000; LEFT and RIGHT are 400 high
    write_output(output, {"s": {"f": [Found(LEFT)]}})
    bins = evaluated([row(LEFT), row(RIGHT), row(small)])["recall_by_height"]["all"]
    assert [(b["from_px"], b["to_px"], b["recall"]["hits"], b["recall"]["n"]) for b in bins] == [
        (0, 32, 0, 1),
        (384, None, 1, 2),
    ]


def test_more_than_a_hundred_detections_of_a_frame_all_count(output, evaluated):
    boxes = column_of(150)
    write_output(output, {"s": {"f": [Found(box, 0.5 + i / 1000) for i, box in enumerate(boxes)]}})
    assert evaluated([row(box) for box in boxes])["detection"]["all"]["recall"]["hits"] == 150


# --- frames ---


def test_frames_without_persons_count_where_the_truth_says_so(output, evaluated):
    write_output(output, {"s": {"empty": [Found(LEFT, 0.9)], "f": [Found(LEFT, 0.5)]}})
    rows = [row(LEFT)]
    assert evaluated(rows)["detection"]["all"]["ap50"] == pytest.approx(1)
    said_so = evaluated([*rows, row(None, "empty")])
    assert said_so["detection"]["all"]["ap50"] == pytest.approx(0.5)
    assert said_so["frames"]["compared"] == 2
    complete = evaluated(rows, "--complete")
    assert complete["detection"] == said_so["detection"]
    assert complete["frames"] == {
        "truth": 1, "compared": 1, "failed": 0, "not_in_output": 0, "taken_as_empty": 1,
    }  # fmt: skip


def test_failed_and_unknown_frames_are_counted_and_left_out(output, evaluated):
    write_output(output, {"s": {"f": [Found(LEFT)], "torn": "truncated"}})
    found = evaluated([row(LEFT), row(LEFT, "torn"), row(LEFT, "gone")])
    assert found["frames"] == {
        "truth": 3, "compared": 1, "failed": 1, "not_in_output": 1, "taken_as_empty": 0,
    }  # fmt: skip
    assert found["persons"]["truth"] == 1


def test_shard_ids_tell_frames_of_one_key_apart(output, evaluated, run, tmp_path):
    write_output(output, {"a": {"f": [Found(LEFT)]}, "b": {"f": [Found(RIGHT)]}})
    rows = [row(LEFT, shard_id="a"), row(RIGHT, shard_id="b")]
    assert evaluated(rows)["persons"]["matched"] == 2
    assert evaluated([row(LEFT, shard_id="b")])["persons"]["missed"] == 1
    truth = write_truth(tmp_path / "t.parquet", [row(LEFT)])
    code, _, err = run("--output", output.uri, "--truth", truth)
    assert code == 2
    assert "frame f is in the shards a and b; add a column shard_id to the ground-truth table" in err


# --- attributes ---


def labelled(output, answers, annotator="smolvlm", **truths):
    """Commit one frame with a person for each answer, and return ground truth with exactly the same boxes."""
    boxes = column_of(len(answers))
    found = [Found(b, 0.5, answers={annotator: a}) for b, a in zip(boxes, answers, strict=True)]
    write_output(output, {"s": {"f": found}})
    return [row(box, **{k: v[i] for k, v in truths.items()}) for i, box in enumerate(boxes)]


def test_accuracy_f1_and_confusion_of_a_category(output, evaluated):
    answers = [said(gender=g) for g in ("male", "female", "female", "female")]
    rows = labelled(output, answers, gender=["male", "male", "female", "female"])
    found = evaluated(rows)["annotators"]["smolvlm"]["attributes"]["gender"]
    assert (found["accuracy"]["hits"], found["accuracy"]["n"]) == (3, 4)
    # Wilson's interval for 3 of 4 at z = 1.96, from its formula.
    assert (found["accuracy"]["low"], found["accuracy"]["high"]) == pytest.approx((0.3006, 0.9544), abs=1e-4)
    assert found["majority"] == 0.5
    assert found["classes"]["values"] == ["male", "female"]
    assert found["classes"]["counts"] == [[1, 1], [0, 2]]
    assert found["classes"]["f1"] == pytest.approx([2 / 3, 4 / 5])
    assert found["classes"]["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert found["reliability"] is None
    assert found["numbers"] is None


def test_a_boolean_that_cannot_be_told_is_wrong_and_no_class_of_its_own(output, evaluated):
    answers = [said(glasses=value) for value in (True, False, None, None)]
    rows = labelled(output, answers, glasses=[True, False, True, None])
    found = evaluated(rows)["annotators"]["smolvlm"]["attributes"]["glasses"]
    assert (found["answered"]["hits"], found["answered"]["n"]) == (3, 3)
    assert (found["accuracy"]["hits"], found["accuracy"]["n"]) == (2, 3)
    assert found["classes"]["values"] == [True, False]
    assert found["classes"]["counts"] == [[1, 0], [0, 1]]
    assert found["classes"]["f1"] == pytest.approx([2 / 3, 1])
    assert found["classes"]["null_answers"] == 1


def test_expected_calibration_error_of_a_case_worked_out_by_hand(output, evaluated):
    # At confidence 0.95, one of two answers is right, which is off by 0.45. At confidence 0.6, both answers
    # are right, which is off by 0.4.
    sure = [(0.95, True), (0.95, False), (0.6, True), (0.6, True)]
    answers = [said({"glasses": confidence}, glasses=right) for confidence, right in sure]
    rows = labelled(output, answers, glasses=[True] * 4)
    found = evaluated(rows)["annotators"]["smolvlm"]["attributes"]["glasses"]["reliability"]
    assert found["expected_calibration_error"] == pytest.approx((0.45 + 0.4) / 2, abs=1e-6)
    assert found["mean_confidence"] == pytest.approx(0.775, abs=1e-6)
    assert [(b["low"], b["high"], b["n"], b["accuracy"]) for b in found["bins"]] == [
        (0.6, 0.7, 2, 1),
        (0.9, 1, 2, 0.5),
    ]


def test_certainty_falls_into_the_last_bin():
    found = reliability(np.array([1.0, 0.0]), np.array([True, True]))
    assert [(b.low, b.high, b.n) for b in found.bins] == [(0, 0.1, 1), (0.9, 1, 1)]
    assert found.expected_calibration_error == 0.5


def test_an_integer_has_a_mean_error_and_null_answers_are_wrong(output, evaluated):
    answers = [said(exact_age=age) for age in (33, 40, None)]
    rows = labelled(output, answers, exact_age=[30, 40, 50])
    found = evaluated(rows)["annotators"]["smolvlm"]["attributes"]["exact_age"]
    assert (found["accuracy"]["hits"], found["accuracy"]["n"]) == (1, 3)
    assert found["classes"] is None
    assert found["numbers"] == {
        "null_answers": 1,
        "mean_absolute_error": 1.5,
        "mean_error": 1.5,
        "pairs": [[30, 33, 1], [40, 40, 1]],
    }


def test_only_ok_outcomes_are_answers_and_the_others_are_counted(output, evaluated):
    answers = [said(mask=True), Annotation("blocked"), Annotation("pending"), said(mask=False)]
    rows = labelled(output, answers, "gemini", mask=[True, True, True, None])
    found = evaluated(rows)["annotators"]["gemini"]
    assert found["outcomes"] == {"blocked": 1, "ok": 2, "pending": 1}
    # The ground truth has no value for the fourth person.
    mask = found["attributes"]["mask"]
    assert (mask["answered"]["hits"], mask["answered"]["n"]) == (1, 3)
    assert mask["accuracy"]["n"] == 1


def test_an_inherited_answer_is_judged_like_any_other(output, evaluated):
    answers = [said(mask=True), replace(said(mask=True), status="inherited")]
    rows = labelled(output, answers, mask=[True, False])
    found = evaluated(rows)["annotators"]["smolvlm"]
    assert found["outcomes"] == {"inherited": 1, "ok": 1}
    assert (
        found["attributes"]["mask"]["answered"]["hits"],
        found["attributes"]["mask"]["accuracy"]["hits"],
    ) == (2, 1)


def test_an_annotator_that_was_asked_in_one_shard_only(output, evaluated):
    answered = Found(LEFT, answers={"smolvlm": said(cap=True), "gemini": said(cap=False)})
    write_output(output, {"a": {"f": [answered]}, "b": {"g": [Found(LEFT, answers={"smolvlm": said()})]}})
    found = evaluated([row(LEFT, cap=True), row(LEFT, "g", cap=True)])["annotators"]
    assert found["gemini"]["outcomes"] == {"not asked": 1, "ok": 1}
    assert found["gemini"]["attributes"]["cap"]["answered"]["hits"] == 1
    assert found["gemini"]["attributes"]["cap"]["accuracy"]["share"] == 0
    assert found["smolvlm"]["attributes"]["cap"]["accuracy"]["share"] == 1


def test_answers_go_to_the_person_whose_box_matches_and_not_by_order(output, evaluated):
    left = Found(LEFT, 0.2, answers={"smolvlm": said(hood=True)})
    right = Found(RIGHT, 0.9, answers={"smolvlm": said(hood=False)})
    dropped = Found(NOBODY, 0.95, kept=False)
    write_output(output, {"s": {"f": [left, right, dropped]}})
    rows = [row(NOBODY, hood=True), row(LEFT, hood=True), row(RIGHT, hood=False)]
    hood = evaluated(rows)["annotators"]["smolvlm"]["attributes"]["hood"]
    assert (hood["accuracy"]["hits"], hood["accuracy"]["n"]) == (2, 2)


def test_shards_that_were_annotated_with_another_schema(output, evaluated):
    rows = labelled(output, [said(gender="unknown"), said()], gender=["male"] * 2, backpack=[True] * 2)
    run_json = json.loads(output.read("run.json"))
    attributes = run_json["config"]["schema"]["attributes"]
    attributes["gender"]["values"] = ["female", "male"]
    attributes["backpack"] = {"type": "boolean"}
    output.write("run.json", json.dumps(run_json).encode())
    found = evaluated(rows)["annotators"]["smolvlm"]["attributes"]
    assert found["gender"]["classes"]["values"] == ["male", "unknown"]
    assert found["gender"]["classes"]["counts"] == [[1, 1], [0, 0]]
    assert (found["backpack"]["answered"]["hits"], found["backpack"]["answered"]["n"]) == (0, 2)
    assert found["backpack"]["classes"] is None


def test_columns_that_are_absent_empty_or_of_no_use_are_said(output, evaluated, run, tmp_path):
    rows = labelled(output, [said()], gender=["male"], cap=[None], track=["t"])
    found = evaluated(rows)
    assert list(found["annotators"]["smolvlm"]["attributes"]) == ["gender"]
    assert found["left_out"] == {
        "without_column": [n for n in SCHEMA.names if n not in ("gender", "cap")],
        "without_values": ["cap"],
        "unused_columns": ["track"],
    }
    code, out, _ = run("--output", output.uri, "--truth", tmp_path / "truth.parquet")
    assert code == 0
    assert "left out, the ground truth has only nulls: cap" in out
    assert "unused columns of the ground truth: track" in out


def test_whole_numbers_that_pandas_made_floats_are_read(output, run, tmp_path):
    rows = labelled(output, [said(exact_age=30), said(exact_age=30)], exact_age=[30, None])
    frame = pd.DataFrame(rows)
    assert frame["exact_age"].dtype == np.float64
    frame.to_parquet(tmp_path / "t.parquet")
    code, out, err = run("--output", output.uri, "--truth", tmp_path / "t.parquet", "--json")
    assert code == 0, err
    age = json.loads(out)["annotators"]["smolvlm"]["attributes"]["exact_age"]
    assert (age["accuracy"]["hits"], age["accuracy"]["n"]) == (1, 1)


# --- refused ground truth ---


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"frame_key": "f"}], "no column bbox"),
        ([{"bbox": LEFT}], "no column frame_key"),
        ([row(LEFT, "elsewhere")], "the output's first is frame_key f in shard_id s"),
        ([row([100, 100, 300, 500])], "divide pixels by the frame's width and height"),
        ([row([0.3, 0.1, 0.1, 0.5])], "x1 < x2"),
        ([row(LEFT[:3])], "does not have four numbers"),
        ([{"frame_key": 7, "bbox": LEFT}], "frame_key holds int64, not text"),
        ([row(LEFT, None), row(LEFT)], "row 0 has no frame_key"),
        ([row(LEFT, gender="Male")], "unknown value 'Male'"),
        ([row(LEFT, gender="Male")], 'one of "male", "female", "unknown"'),
        ([row(LEFT, cap="yes")], "cap holds string, which does not fit type boolean"),
        ([row(LEFT, exact_age=150)], "unknown value 150"),
        ([row(LEFT, exact_age=30.5)], "exact_age holds double, which does not fit type integer"),
    ],
)
def test_a_truth_that_cannot_be_used_is_refused_with_the_remedy(output, run, tmp_path, rows, says):
    write_output(output, {"s": {"f": [Found(LEFT)]}})
    truth = write_truth(tmp_path / "truth.parquet", rows)
    code, _, err = run("--output", output.uri, "--truth", truth)
    assert code == 2
    assert says in err
    assert str(truth) in err
    assert not output.exists("evaluation")


def test_a_truth_that_is_missing_or_no_parquet_and_an_output_without_a_run(output, run, tmp_path):
    (tmp_path / "truth.csv").write_text("frame_key,bbox\n")
    code, _, err = run("--output", output.uri, "--truth", tmp_path / "truth.csv")
    assert (code, "no run.json here" in err) == (2, True)
    write_output(output, {"s": {"f": [Found(LEFT)]}})
    for name, says in (("gone", "there is no such file"), ("truth.csv", "not a readable Parquet file")):
        code, _, err = run("--output", output.uri, "--truth", tmp_path / name)
        assert (code, says in err) == (2, True), err


# --- reports ---


def test_the_report_is_written_under_the_output_or_where_it_is_wanted(output, run, evaluated, tmp_path):
    rows = labelled(output, [said({"cap": 0.9}, cap=True), said({"cap": 0.7}, cap=False)], cap=[True, True])
    rows = [r | {"exact_age": 30} for r in rows]
    found = evaluated(rows)
    names = {o.path for o in output.list("evaluation")}
    assert names == {
        "evaluation/evaluation.json",
        "evaluation/precision_recall.png",
        "evaluation/recall_by_height.png",
        "evaluation/confusion_smolvlm.png",
        "evaluation/reliability_smolvlm.png",
    }
    assert json.loads(output.read("evaluation/evaluation.json")) == found
    for name in names - {"evaluation/evaluation.json"}:
        with Image.open(io.BytesIO(output.read(name))) as image:
            drawn = np.asarray(image.convert("L"))
        assert min(drawn.shape) > 300, name
        assert (drawn < 128).mean() > 0.002, name  # not blank
    elsewhere = ObjectStore(str(tmp_path / "report"))
    before = {name: output.read(name) for name in names}
    evaluated(rows, "--report", elsewhere.uri)
    assert {f"evaluation/{o.path}": elsewhere.read(o.path) for o in elsewhere.list()} == before


def test_the_table_says_what_the_json_says(output, run, tmp_path):
    answers = [said({"gender": 0.95}, gender="male"), said({"gender": 0.95}, gender="female")]
    truth = write_truth(tmp_path / "t.parquet", labelled(output, answers, gender=["male", "male"]))
    code, out, _ = run("--output", output.uri, "--truth", truth)
    assert code == 0
    line = next(line for line in out.splitlines() if line.startswith(" gender"))
    assert line.split() == ["gender", "2", "100%", "0.500", "0.09-0.91", "1.000", "0.333", "0.450", "-"]


def test_a_folder_of_truth_and_everything_in_a_bucket(bucket, run):
    output = ObjectStore(f"{bucket}/out")
    write_output(output, {"s": {"f": [Found(LEFT)], "g": [Found(LEFT)]}})
    for key in ("f", "g"):
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist([row(LEFT, key)]), sink)
        ObjectStore(f"{bucket}/truth").write(f"{key}.parquet", sink.getvalue())
    code, out, err = run("--output", output.uri, "--truth", f"{bucket}/truth", "--json")
    assert code == 0, err
    assert json.loads(out)["persons"]["matched"] == 2
    assert output.exists("evaluation/evaluation.json")
    code, _, err = run("--output", output.uri, "--truth", f"{bucket}/nowhere.parquet")
    assert (code, "there is no such file" in err) == (2, True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_measured_against_its_own_answers_is_perfect(models: Models, tmp_path):
    job.write_shards(tmp_path / "in", "a")
    without_ray.annotate(tmp_path / "in", tmp_path / "out", *models.options())
    kept = [
        {"shard_id": r["shard_id"], "frame_key": r["frame_key"], "bbox": r["bbox"]}
        | {name: r[f"smolvlm_{name}"] for name in SCHEMA.names}
        for r in job.consolidated(tmp_path / "out")
    ]
    truth = write_truth(tmp_path / "truth.parquet", kept)
    done = job.shopframe("evaluate", "--output", tmp_path / "out", "--truth", truth, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["persons"]["matched"] == len(kept) > 0
    assert found["detection"]["kept"]["ap50_95"] == pytest.approx(1)
    measured = found["annotators"]["smolvlm"]["attributes"]
    assert all(a["accuracy"]["share"] == 1 for a in measured.values())
    assert measured["gender"]["reliability"]["n"] == len(kept)
