"""Figures of benchmarks: what is reached, what is missed, and one table of all."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest
from rich.console import Console

from benchmarks.figures import FIGURES_FILE, Figure, Figures, print_table, read_figures
from benchmarks.machine import describe_cpu
from tests.conftest import REPO_ROOT


def figure(value: float | None, **given: object) -> Figure:
    return Figure.model_validate({"benchmark": "b", "what": "w", "value": value, **given})


def run_benchmarks(*arguments: object) -> subprocess.CompletedProcess[str]:
    # An own file of figures that the environment names is not touched.
    environment = {**os.environ, "PYTHONPATH": str(REPO_ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *map(str, arguments)],
        cwd=REPO_ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("value", "target", "verdict"),
    [
        (4.6, {"at_least": 4.6}, "reached"),
        (4.599, {"at_least": 4.6}, "MISSED"),
        (15.0, {"at_most": 15}, "reached"),
        (15.001, {"at_most": 15}, "MISSED"),
        (-3.0, {"at_most": 15}, "reached"),
        (95.0, {"at_least": 93, "at_most": 97}, "reached"),
        (92.9, {"at_least": 93, "at_most": 97}, "MISSED"),
        (97.1, {"at_least": 93, "at_most": 97}, "MISSED"),
        (float("nan"), {"at_least": 1}, "MISSED"),
        (float("nan"), {"at_most": 1}, "MISSED"),
        (None, {"at_least": 1.2}, "not measured"),
        (0.97, {}, ""),
    ],
)
def test_a_figure_says_whether_its_target_is_reached(value, target, verdict):
    assert figure(value, **target).verdict == verdict


@pytest.mark.parametrize("value", [1.0, 9.0])
def test_a_quick_run_judges_nothing(value):
    assert figure(value, at_least=5, is_quick=True).verdict == "too small to tell"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"value": 2.3456, "unit": "times", "at_least": 4.6}, ("2.35 times", "at least 4.6")),
        ({"value": 22.63, "unit": "s", "at_most": 8}, ("22.6 s", "at most 8")),
        ({"value": 0.00621, "at_most": 0.006}, ("0.0062", "at most 0.006")),
        ({"value": 1480.2, "unit": "MB", "at_most": 1500}, ("1,480 MB", "at most 1,500")),
        ({"value": 95.8, "unit": "%", "at_least": 93, "at_most": 97}, ("95.8 %", "93 to 97")),
        ({"value": 7, "at_least": 7, "at_most": 7}, ("7", "7")),
        ({"value": None, "unit": "times", "at_least": 1.2}, ("-", "at least 1.2")),
        ({"value": 0.5}, ("0.500", "")),
    ],
)
def test_values_and_targets_are_shown_with_few_digits(given, shown):
    found = figure(**given)
    assert (found.shown_value(), found.shown_target()) == shown


def test_figures_are_printed_and_kept_as_they_come(tmp_path, monkeypatch, capsys):
    file = tmp_path / "figures.jsonl"
    monkeypatch.setenv(FIGURES_FILE, str(file))
    figures = Figures("detect")
    fast = figures.add("job against a peer", 4.7, "times", at_least=4.6, note="47 against 10 frames/s")
    assert read_figures(file) == [fast]
    slow = figures.add("first commit", 22.6, "s", at_most=8)
    assert read_figures(file) == [fast, slow]
    assert (slow.machine, slow.benchmark) == (describe_cpu(), "detect")
    printed = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert printed == [
        "job against a peer 4.70 times target at least 4.6: reached (47 against 10 frames/s)",
        "first commit 22.6 s target at most 8: MISSED",
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 0.1, None])
def test_a_figure_that_is_read_again_has_the_same_verdict(tmp_path, monkeypatch, value):
    file = tmp_path / "figures.jsonl"
    monkeypatch.setenv(FIGURES_FILE, str(file))
    kept = Figures("b").add("w", value, at_least=1, at_most=2)
    (found,) = read_figures(file)
    assert found.model_dump_json() == kept.model_dump_json()
    assert (found.value is None) == (value is None)
    assert found.verdict == ("not measured" if value is None else "MISSED")


@pytest.mark.parametrize("half", [b'{"benchmark": "b", "wh', '{"what": "é'.encode()[:-1], b"[]\n", b"\n\n"])
def test_half_a_line_costs_no_other_figure(tmp_path, monkeypatch, capsys, half):
    file = tmp_path / "figures.jsonl"
    monkeypatch.setenv(FIGURES_FILE, str(file))
    figures = Figures("b")
    first = figures.add("first", 1.0, note="one\u2028two")
    with file.open("ab") as opened:
        opened.write(half)
    second = figures.add("second", 2.0)
    capsys.readouterr()
    assert read_figures(file) == [first, second]
    said = capsys.readouterr().out
    assert ("a line that is no figure was left out" in said) == bool(half.strip())
    assert read_figures(file, begin=file.stat().st_size) == []


def test_the_table_names_the_machine_and_every_figure():
    sink = io.StringIO()
    both = [figure(4.7, unit="times", at_least=4.6), figure(None, at_least=1.2, note="Daft isn't installed")]
    print_table(Console(file=sink, width=170), both)
    lines = [" ".join(line.split()) for line in sink.getvalue().splitlines()]
    assert lines[0] == f"{describe_cpu()}; shopframe {both[0].version}, {both[0].at:%Y-%m-%d}"
    assert "b w 4.70 times at least 4.6 reached" in lines
    assert "b w - at least 1.2 not measured Daft isn't installed" in lines


def test_benchmarks_run_one_after_the_other_into_one_table_and_one_file(tmp_path):
    file = tmp_path / "figures.jsonl"
    done = run_benchmarks("shares", "--quick", "--to", file)
    assert (done.returncode, done.stderr) == (0, "")
    found = read_figures(file)
    assert [f.what for f in found] == [
        "one audit, seed 0: intervals with truth",
        "one audit, seed 0: width against alone",
        "two audits, seed 0: intervals with truth",
        "two audits, seed 0: width against alone",
    ]
    assert {(f.benchmark, f.verdict) for f in found} == {("shares", "too small to tell")}
    before, _, table = done.stdout.partition(f"{describe_cpu()}; shopframe ")
    for f in found:
        assert f.what in before
        assert f.what in table
    assert str(file) in table


def test_a_benchmark_that_fails_is_in_the_table_and_the_next_one_runs(tmp_path):
    file = tmp_path / "figures.jsonl"
    done = run_benchmarks("shares", "calibration", "--quick", "--to", file, "--limit-minutes", 0.0001)
    assert done.returncode == 1
    why = "the benchmark failed: stopped after 0.0001 minutes"
    found = [(f.benchmark, f.value, f.verdict, f.note) for f in read_figures(file)]
    assert found == [(name, None, "not measured", why) for name in ("shares", "calibration")]
    assert done.stdout.count(why) == 4


def test_an_unknown_benchmark_is_refused_before_any_runs(tmp_path):
    done = run_benchmarks("shares", "speed", "--to", tmp_path / "figures.jsonl")
    assert done.returncode == 2
    assert "there is no benchmark speed" in done.stderr
    assert list(tmp_path.iterdir()) == []
