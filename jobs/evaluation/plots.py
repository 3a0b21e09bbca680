"""Draw the measures as PNG plots."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator, PercentFormatter

from jobs.evaluation.attribute_accuracy import AttributeAccuracy, ClassAccuracy, NumberAccuracy
from jobs.evaluation.comparison import Evaluation
from jobs.evaluation.detection_accuracy import HeightRecall
from jobs.evaluation.reliability import BINS, Reliability

_BLUE, _ORANGE, _GREY, _PALE = "#1f5fa8", "#d1662b", "#8a8f98", "#d9dde3"
_COLUMNS = 4
_CELLS_WITH_NUMBERS = 12
"""Maximum number of values for which the counts in a small confusion matrix are readable."""
_DPI = 150
_STYLE: dict[Any, object] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelcolor": "#3c4149",
    "axes.edgecolor": _GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": _PALE,
    "grid.linewidth": 0.6,
    "xtick.color": "#3c4149",
    "ytick.color": "#3c4149",
    "legend.frameon": False,
}

_Panels = Mapping[str, Callable[[Axes], None]]


def draw_plots(evaluation: Evaluation) -> dict[str, bytes]:
    """Draw all plots that the evaluation has numbers for.

    Returns:
        PNG content by file name: `precision_recall.png`, `recall_by_height.png`, and for each annotator
        `confusion_<name>.png` and `reliability_<name>.png`.
    """
    plots: dict[str, bytes] = {}
    with mpl.rc_context(_STYLE):
        if evaluation.persons.truth:
            plots["precision_recall.png"] = _precision_recall(evaluation)
            plots["recall_by_height.png"] = _recall_by_height(evaluation)
        for name, annotator in evaluation.annotators.items():
            answers = {a: p for a, found in annotator.attributes.items() if (p := _answers_panel(found))}
            if answers:
                title = f"{name}: persons by true value (rows) and answer (columns)"
                plots[f"confusion_{name}.png"] = _small_multiples(title, answers, 3.1)
            curves = {
                a: partial(_draw_reliability, found=found.reliability)
                for a, found in annotator.attributes.items()
                if found.reliability
            }
            if curves:
                title = f"{name}: accuracy of answers by their confidence (grey: share of the answers)"
                plots[f"reliability_{name}.png"] = _small_multiples(title, curves, 2.9)
    return plots


def _png(figure: Figure) -> bytes:
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=_DPI, metadata={"Software": None})
    return sink.getvalue()


def _small_multiples(title: str, panels: _Panels, side_inches: float) -> bytes:
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    # The minimum width leaves room for the title above a single panel.
    figure = Figure(figsize=(max(side_inches * columns, 6), side_inches * rows + 0.5))
    figure.set_layout_engine("constrained", h_pad=0.1, w_pad=0.08)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, (name, draw) in zip(axes, panels.items(), strict=False):
        axis.set_title(name, fontweight="bold", pad=18)
        draw(axis)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    return _png(figure)


def _note(axis: Axes, text: str) -> None:
    """Write a line between the panel and its title, where no name can overlap it, however long."""
    axis.text(0, 1.03, text, transform=axis.transAxes, fontsize=8, color="#5d636d")


def _precision_recall(evaluation: Evaluation) -> bytes:
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axis = figure.subplots()
    for name, style in (("all", "-"), ("kept", "--")):
        found = evaluation.detection[name]
        who = "all detections" if name == "all" else "kept by the ROI"
        for (iou, precision), color in zip(found.precision_at_recall.items(), (_BLUE, _ORANGE), strict=True):
            recalls = np.linspace(0, 1, len(precision))
            area = f"AP {np.mean(precision):.3f}"
            axis.plot(recalls, precision, style, color=color, label=f"{who}, IoU {iou}: {area}")
    axis.set(xlim=(0, 1.01), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    axis.grid(visible=True)
    axis.legend(loc="lower left")
    frames = evaluation.frames.compared + evaluation.frames.taken_as_empty
    title = f"Detection: {evaluation.persons.truth:,} persons in {frames:,} frames"
    axis.set_title(title, fontweight="bold", pad=10)
    return _png(figure)


def _recall_by_height(evaluation: Evaluation) -> bytes:
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axis = figure.subplots()
    bins = evaluation.recall_by_height["all"]
    for name, color, shift in (("all", _BLUE, -0.11), ("kept", _ORANGE, 0.11)):
        recalls = [b.recall for b in evaluation.recall_by_height[name]]
        shares = np.array([r.share for r in recalls], np.float64)
        spread = np.abs(np.array([[r.low for r in recalls], [r.high for r in recalls]], np.float64) - shares)
        axis.errorbar(
            np.arange(len(bins)) + shift, shares, spread, fmt="o", color=color, ecolor=color,
            elinewidth=1.2, capsize=3, label="all detections" if name == "all" else "kept by the ROI",
        )  # fmt: skip
    labels = [f"{_pixels(b)}\n{b.recall.n:,}" for b in bins]
    axis.set_xticks(range(len(bins)), labels, fontsize=8)
    axis.set(
        ylim=(0, 1.04),
        xlim=(-0.6, len(bins) - 0.4),
        xlabel="height of the true box in pixels, and number of persons",
    )
    axis.set_ylabel(f"share found at IoU {evaluation.match_iou}, with 95% interval")
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.grid(axis="y")
    axis.legend(loc="lower right")
    axis.set_title("Persons found, by height", fontweight="bold", pad=10)
    return _png(figure)


def _pixels(height: HeightRecall) -> str:
    if height.to_px is None:
        return f"{height.from_px} and over"
    return f"under {height.to_px}" if height.from_px == 0 else f"{height.from_px} to {height.to_px}"


def _draw_reliability(axis: Axes, found: Reliability) -> None:
    middles = [(b.low + b.high) / 2 for b in found.bins]
    accuracy = np.array([b.accuracy for b in found.bins])
    confidence = np.array([b.confidence for b in found.bins])
    shares = np.array([b.n for b in found.bins]) / found.n
    axis.bar(middles, shares, 1 / BINS, color=_PALE, edgecolor="white")
    axis.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8, linestyle=":")
    axis.vlines(confidence, confidence, accuracy, color=_ORANGE, linewidth=1.4)
    # A bin with few answers is a small point, because its accuracy is mostly chance.
    axis.scatter(confidence, accuracy, s=110 * np.sqrt(shares), color=_BLUE, zorder=3, linewidths=0)
    axis.set(xlim=(0, 1.02), ylim=(0, 1.04), aspect="equal")
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_locator(MultipleLocator(0.25))
    axis.grid(visible=True)
    axis.set(xlabel="confidence", ylabel="accuracy")
    note = f"ECE {found.expected_calibration_error:.3f}, n {found.n:,}"
    _note(axis, note)


def _answers_panel(found: AttributeAccuracy) -> Callable[[Axes], None] | None:
    if found.classes:
        return partial(_draw_confusion, found=found.classes)
    if found.numbers and found.numbers.pairs:
        return partial(_draw_numbers, found=found.numbers)
    return None


def _draw_confusion(axis: Axes, found: ClassAccuracy) -> None:
    counts = np.array(found.counts)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="equal")
    names = [str(value).lower() if isinstance(value, bool) else str(value) for value in found.values]
    places = range(len(names))
    crowded = len(names) > 3
    axis.set_xticks(places, names, rotation=90 if crowded else 0, fontsize=7.5)
    axis.set_yticks(places, names, fontsize=7.5)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    if len(names) <= _CELLS_WITH_NUMBERS:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                color = "white" if shares[row, column] > 0.55 else "#22262c"
                axis.text(column, row, f"{count:,}", ha="center", va="center", fontsize=7.5, color=color)
    unsaid = f", {found.null_answers:,} of null" if found.null_answers else ""
    _note(axis, f"macro F1 {found.macro_f1:.2f}{unsaid}")


def _draw_numbers(axis: Axes, found: NumberAccuracy) -> None:
    truths, answers, persons = np.array(found.pairs).T
    low, high = min(truths.min(), answers.min()), max(truths.max(), answers.max())
    margin = max(1, 0.05 * (high - low))
    limits = (low - margin, high + margin)
    axis.plot(limits, limits, color=_GREY, linewidth=0.8, linestyle=":")
    axis.scatter(answers, truths, s=12 * np.sqrt(persons), color=_BLUE, alpha=0.5, linewidths=0)
    # The truth increases downwards, like the rows of the confusion matrices beside this panel.
    axis.set(xlim=limits, ylim=limits[::-1], aspect="equal", xlabel="answer", ylabel="truth")
    axis.grid(visible=True)
    _note(axis, f"mean absolute error {found.mean_absolute_error:.1f}")
