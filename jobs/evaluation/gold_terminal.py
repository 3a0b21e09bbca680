"""Print estimates from human decisions as tables in the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.text import Text

from jobs.evaluation.against_corrections import GoldEvaluation
from jobs.evaluation.estimates import Estimate
from jobs.evaluation.gold_accuracy import GoldAccuracy
from jobs.evaluation.share_of_output import Share
from jobs.evaluation.terminal import NONE, number, plain_table
from jobs.run.measured import FINAL
from jobs.run.words import counted

_BANDS_SHOWN = 8
_LEGEND = (
    "n: decisions about persons with an answer; accuracy and F1 (mean over values) with 95% intervals; "
    "more: random decisions that are still needed for an interval of the accuracy that is {width:g} wide"
)
_ALL = "(all): everybody who is left, after whom the accuracy about these persons is known exactly"


def print_gold(console: Console, found: GoldEvaluation, files: list[str]) -> None:
    """Print which decisions were used, one table per annotator, accuracy by bands, and the files."""
    used = ", ".join(f"{kind} {n:,}" for kind, n in found.decisions.items()) or "none"
    console.print(Text(f"{found.output} against its corrections", style="bold"), soft_wrap=True)
    console.print(Text(f"decisions: {used}"), soft_wrap=True)
    console.print(
        Text(f"{counted(found.labelled, 'labelled person')} of {found.persons:,}: {found.note}"),
        soft_wrap=True,
    )
    if found.outside:
        console.print(
            Text(
                f"they were drawn among {found.drawn_among}: for the {found.outside:,} other persons these "
                "estimates don't stand"
            ),
            soft_wrap=True,
        )
    console.print(Text(found.weighing), soft_wrap=True)
    if found.calibration:
        console.print(Text(found.calibration), soft_wrap=True)
    if found.labelled:
        for name, attributes in found.annotators.items():
            title = "final values, as machines alone give them" if name == FINAL else name
            console.print(_accuracies(title, attributes))
        console.print(Text(_LEGEND.format(width=found.width)))
        if any(one.more_is_everybody for of in found.annotators.values() for one in of.values()):
            console.print(Text(_ALL), soft_wrap=True)
        withheld = {name: share for name, share in found.coverage.items() if share is not None and share < 1}
        if withheld:
            shown = ", ".join(f"{name} {share:.0%}" for name, share in withheld.items())
            console.print(Text(f"coverage, the values of machines that are not withheld: {shown}"))
        for name, attributes in found.annotators.items():
            _print_bands(console, name, attributes)
    for uri in files:
        console.print(Text(f"wrote {uri}"), soft_wrap=True)


def _accuracies(title: str, attributes: Mapping[str, GoldAccuracy]) -> object:
    table = plain_table(title, "attribute", "n", "answered", "accuracy", "95%", "F1", "95%", "error", "more")
    for name, found in attributes.items():
        share = found.answered.value
        error = found.mean_absolute_error
        table.add_row(
            name,
            f"{found.accuracy.n:,}",
            NONE if share is None else f"{share:.0%}",
            number(found.accuracy.value),
            interval(found.accuracy),
            number(found.macro_f1.value if found.macro_f1 else None),
            interval(found.macro_f1) if found.macro_f1 else NONE,
            number(error.value if error else None, 1),
            f"{found.more_decisions:,}{' (all)' if found.more_is_everybody else ''}",
        )
    return table


def _print_bands(console: Console, name: str, attributes: Mapping[str, GoldAccuracy]) -> None:
    for band in next(iter(attributes.values())).by if attributes else ():
        names = list(dict.fromkeys(value for one in attributes.values() for value in one.by[band]))
        if len(names) < 2:
            continue
        shown = names[:_BANDS_SHOWN]
        zone = " (UTC)" if band == "hour" else ""
        table = plain_table(f"{name}: accuracy by {band}{zone}", "attribute", *shown)
        for attribute, one in attributes.items():
            if not one.accuracy.n:
                continue
            cells = (one.by[band].get(value) for value in shown)
            table.add_row(
                attribute,
                *(NONE if cell is None else f"{number(cell.value, 2)} ({cell.n})" for cell in cells),
            )
        console.print(table)
        if len(names) > len(shown):
            console.print(Text(f"... and {len(names) - len(shown):,} more in the file"))


def interval(found: Estimate) -> str:
    """Return the ends of an interval, or a dash if there is none."""
    if found.low is None or found.high is None:
        return NONE
    return f"{found.low:.2f}-{found.high:.2f}"


def share_in_words(found: Share) -> str:
    """Return a share with its interval and what it rests on, or that it is a guess."""
    among = f" where {', '.join(found.where)}" if found.where else ""
    value = found.share.value
    if value is None:
        return f"{found.asked}{among}: {found.note}"
    sure = ""
    if found.share.low is not None and found.share.high is not None:
        sure = f", 95% interval {found.share.low:.1%} to {found.share.high:.1%}"
    lines = [f"{found.asked}{among}: {value:.1%}{sure}", _number(found), found.note]
    alone = found.by_labels_alone
    if alone.value is not None and alone.low is not None and alone.high is not None:
        model = "" if found.model is None else f"; by the machines alone {found.model:.1%}"
        lines.append(f"by the decisions alone {alone.value:.1%} ({alone.low:.1%} to {alone.high:.1%}){model}")
    return "\n".join(lines)


def _number(found: Share) -> str:
    number, of = found.number, f"of {counted(found.persons, 'person')} in frames (not visitors)"
    if number.value is None or number.low is None or number.high is None:
        return f"that is {number.value or 0:,.0f} {of}"
    return f"that is about {number.value:,.0f} ({number.low:,.0f} to {number.high:,.0f}) {of}"
