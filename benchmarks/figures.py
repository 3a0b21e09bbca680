"""Figures that benchmarks measure, each beside its target: printed in one way, and kept in a file if wished.

    FIGURES_FILE=figures.jsonl python -m benchmarks.vlm

appends a JSON object a line for each figure as soon as it is measured, so that a benchmark that fails later
loses none. `python -m benchmarks` runs benchmarks with such a file, and makes one table of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, computed_field
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.machine import describe_cpu, describe_version

FIGURES_FILE = "FIGURES_FILE"
"""Environment variable with the path of the file to which figures are appended."""

Verdict = Literal["reached", "MISSED", "not measured", "too small to tell", ""]

_STYLES: dict[Verdict, str] = {"MISSED": "bold red", "reached": "green"}


class Figure(BaseModel):
    """What a benchmark has measured.

    A figure that has both limits should be between them. The verdict is empty for a figure without a limit.

    Attributes:
        benchmark: Name of the benchmark.
        what: What was measured.
        value: The measured value, or None if it could not be measured, which the note then explains.
        unit: Its unit; "times" for a ratio, empty for a share of 1 or a number.
        at_least: The least value that is aimed at.
        at_most: The greatest value that is aimed at.
        note: What there is to know about it.
        is_quick: Whether the benchmark only checked that it runs, so that the value says nothing.
        at: When it was measured.
        version: Version of the project.
        machine: The CPU.
    """

    # As null, a value that is not a number would be read as one that could not be measured.
    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    benchmark: str
    what: str
    value: float | None
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""
    is_quick: bool = False
    at: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))
    version: str = Field(default_factory=describe_version)
    machine: str = Field(default_factory=describe_cpu)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def verdict(self) -> Verdict:
        """Whether the target was reached."""
        if self.value is None:
            return "not measured"
        if self.at_least is None and self.at_most is None:
            return ""
        if self.is_quick:
            return "too small to tell"
        # In this form, a value that is not a number has missed its target.
        is_enough = self.at_least is None or self.value >= self.at_least
        return "reached" if is_enough and (self.at_most is None or self.value <= self.at_most) else "MISSED"

    def shown_value(self) -> str:
        """Return the value with its unit and about three digits."""
        return "-" if self.value is None else f"{_digits(self.value)} {self.unit}".rstrip()

    def shown_target(self) -> str:
        """Return the target in words, or an empty text."""
        least, most = self.at_least, self.at_most
        if least is not None and most is not None:
            return _limit(least) if least == most else f"{_limit(least)} to {_limit(most)}"
        if least is not None:
            return f"at least {_limit(least)}"
        return "" if most is None else f"at most {_limit(most)}"


def _digits(value: float) -> str:
    size = abs(value)
    if not size < 100 or value.is_integer():
        return f"{value:,.0f}"
    return f"{value:.{1 if size >= 10 else 2 if size >= 1 else 3 if size >= 0.01 else 4}f}"


def _limit(value: float) -> str:
    return f"{value:,.0f}" if value.is_integer() else f"{value:g}"


@dataclass(frozen=True, slots=True)
class Figures:
    """Takes the figures of one benchmark as they are measured.

    Attributes:
        benchmark: Its name.
        is_quick: Whether it only checks that it runs.
        measured: The figures so far.
    """

    benchmark: str
    is_quick: bool = False
    measured: list[Figure] = field(default_factory=list)

    @property
    def has_missed(self) -> bool:
        """Whether a figure has missed its target."""
        return any(figure.verdict == "MISSED" for figure in self.measured)

    def add(
        self,
        what: str,
        value: float | None,
        unit: str = "",
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        note: str = "",
    ) -> Figure:
        """Print a figure, and append it to the file that `FIGURES_FILE` names.

        Args:
            what: What was measured.
            value: The value, or None if it could not be measured.
            unit: Its unit.
            at_least: The least value that is aimed at.
            at_most: The greatest value that is aimed at.
            note: What there is to know about it.
        """
        figure = Figure(
            benchmark=self.benchmark,
            what=what,
            value=value,
            unit=unit,
            at_least=at_least,
            at_most=at_most,
            note=note,
            is_quick=self.is_quick,
        )
        self.measured.append(figure)
        target = figure.shown_target()
        aimed = f"   target {target}" if target else ""
        verdict = f": {figure.verdict}" if figure.verdict else ""
        explained = f" ({note})" if note else ""
        print(f"  {what:54} {figure.shown_value():>12}{aimed}{verdict}{explained}", flush=True)
        if path := os.environ.get(FIGURES_FILE):
            _append(Path(path), figure)
        return figure


def _append(path: Path, figure: Figure) -> None:
    with path.open("ab+") as file:
        # A benchmark that was killed may have left half a line.
        file.seek(-1 if file.tell() else 0, os.SEEK_END)
        begins = file.read(1) in (b"", b"\n")
        file.write((b"" if begins else b"\n") + figure.model_dump_json().encode() + b"\n")


def read_figures(path: Path, begin: int = 0) -> list[Figure]:
    """Return the figures of a file in the order in which they were measured; none if there is no file.

    A line that is no figure, such as the half of one that a killed benchmark has left, is said and left out.

    Args:
        path: The file.
        begin: Bytes to skip.
    """
    if not path.exists():
        return []
    found = []
    for line in path.read_bytes()[begin:].split(b"\n"):
        try:
            found += [Figure.model_validate_json(line)] if line else []
        except ValidationError:
            said = line.decode(errors="replace")
            print(f"{path}: a line that is no figure was left out: {said}", flush=True)
    return found


def print_table(console: Console, figures: Sequence[Figure]) -> None:
    """Print the machine, the version, and a table of all figures."""
    for said in _distinct(f"{f.machine}; shopframe {f.version}, {f.at:%Y-%m-%d}" for f in figures):
        console.print(Text(said), soft_wrap=True)
    table = Table(box=SIMPLE_HEAD)
    for column in ("benchmark", "figure"):
        table.add_column(column)
    table.add_column("measured", justify="right", no_wrap=True)
    table.add_column("target", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("note")
    for figure in figures:
        table.add_row(
            Text(figure.benchmark),
            Text(figure.what),
            Text(figure.shown_value()),
            Text(figure.shown_target()),
            Text(figure.verdict, style=_STYLES.get(figure.verdict, "")),
            Text(figure.note),
        )
    console.print(table)


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))
