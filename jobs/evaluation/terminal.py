"""Print the measures as tables in the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.evaluation.attribute_accuracy import AttributeAccuracy
from jobs.evaluation.comparison import Evaluation
from jobs.evaluation.proportion import Proportion

NONE = "-"
_LEGEND = (
    "n: persons found with a known value; accuracy: share of right answers, with its 95% interval; majority: "
    "accuracy of always giving the most frequent true value; F1: mean over values; ECE: expected "
    "calibration error; error: mean absolute error"
)


def print_evaluation(console: Console, evaluation: Evaluation, files: list[str]) -> None:
    """Print the counts, the accuracy of detection, one table per annotator, and the URIs of the files."""
    console.print(_counts(evaluation))
    console.print(_detection(evaluation))
    for name, annotator in evaluation.annotators.items():
        outcomes = ", ".join(f"{n:,} {outcome}" for outcome, n in annotator.outcomes.items())
        console.print(_attributes(f"{name}: {outcomes or 'no persons'}", annotator.attributes))
    if any(annotator.attributes for annotator in evaluation.annotators.values()):
        console.print(Text(_LEGEND))
    for line in _left_out(evaluation):
        console.print(Text(line), soft_wrap=True)
    for uri in files:
        console.print(Text(f"wrote {uri}"), soft_wrap=True)


def plain_table(title: str, *columns: str) -> Table:
    """Return a table without lines and margins, so that all columns fit into a width of 80."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=0)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left", no_wrap=True)
    return table


def _counts(evaluation: Evaluation) -> Table:
    table = Table(
        title=f"{evaluation.output} against {evaluation.truth}", title_justify="left", show_header=False
    )
    table.add_column(style="bold")
    table.add_column()
    frames, persons = evaluation.frames, evaluation.persons
    table.add_row(
        "frames in the ground truth",
        f"{frames.truth:,} = {frames.compared:,} compared + {frames.failed:,} failed + "
        f"{frames.not_in_output:,} not in the output",
    )
    if frames.taken_as_empty:
        table.add_row("other frames", f"{frames.taken_as_empty:,} compared as frames without persons")
    table.add_row(
        "persons in them",
        f"{persons.truth:,} = {persons.matched:,} found + {persons.dropped:,} found and dropped by the ROI + "
        f"{persons.missed:,} missed",
    )
    table.add_row(
        "detections kept",
        f"{persons.kept:,} = {persons.matched:,} that match a person + {persons.unmatched:,} that match none",
    )
    return table


def _detection(evaluation: Evaluation) -> Table:
    title = f"detection (matched at IoU {evaluation.match_iou}; all: including those that the ROI dropped)"
    table = plain_table(title, "of", "detections", "AP50", "AP50-95", "precision", "recall", "95%")
    for name, found in evaluation.detection.items():
        table.add_row(
            {"all": "all detections", "kept": "kept by the ROI"}[name],
            f"{found.detections:,}",
            number(found.ap50),
            number(found.ap50_95),
            number(found.precision.share),
            number(found.recall.share),
            _interval(found.recall),
        )
    return table


def _attributes(title: str, attributes: dict[str, AttributeAccuracy]) -> Table:
    columns = ("attribute", "n", "answered", "accuracy", "95%", "majority", "F1", "ECE", "error")
    table = plain_table(title, *columns)
    for name, found in attributes.items():
        table.add_row(
            name,
            f"{found.answered.n:,}",
            NONE if found.answered.share is None else f"{found.answered.share:.0%}",
            number(found.accuracy.share),
            _interval(found.accuracy),
            number(found.majority),
            number(found.classes.macro_f1 if found.classes else None),
            number(found.reliability.expected_calibration_error if found.reliability else None),
            number(found.numbers.mean_absolute_error if found.numbers else None, 1),
        )
    return table


def _left_out(evaluation: Evaluation) -> Iterator[str]:
    said = {
        "without_column": "left out, the ground truth has no such column",
        "without_values": "left out, the ground truth has only nulls",
        "unused_columns": "unused columns of the ground truth",
    }
    for kind, names in evaluation.left_out.items():
        if names:
            yield f"{said[kind]}: {', '.join(names)}"


def number(value: float | None, digits: int = 3) -> str:
    """Return a number as text, or a dash if there is none."""
    return NONE if value is None else f"{value:.{digits}f}"


def _interval(proportion: Proportion) -> str:
    if proportion.low is None or proportion.high is None:
        return NONE
    return f"{proportion.low:.2f}-{proportion.high:.2f}"
