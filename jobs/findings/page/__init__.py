"""The templates and the style that the report and the page share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import BaseLoader, ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from jobs.run.words import time_in_words

_OPENING = re.compile(r"<(tr|th|td)\b")
NUMBERS = "numbers.html"
"""The template of the page that has only what was found."""


def environment(*loaders: BaseLoader) -> Environment:
    """Return what renders the templates here and those of other loaders.

    Everything is escaped unless it is the page's own: nothing that a model, a file name or a person has
    written becomes markup. Charts are SVG of `jobs.findings.drawing`.
    """
    made = Environment(
        loader=ChoiceLoader([*loaders, PackageLoader(__name__, "")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["percent"] = _percent
    made.filters["whole"] = "{:,.0f}".format
    made.filters["time"] = time_in_words
    made.filters["titled"] = _titled
    made.filters["chart"] = Markup
    return made


def render_numbers(content: Mapping[str, Any]) -> str:
    """Return the page of `shopframe serve` that has what was found, as HTML without scripts and styles.

    Args:
        content: What the templates name.
    """
    return environment().get_template(NUMBERS).render(content).lstrip()


def style() -> str:
    """Return the style of what was found."""
    return files(__name__).joinpath("findings.css").read_text(encoding="utf-8")


def _titled(rows: Markup, titles: Sequence[str]) -> Markup:
    """Return rows of a table whose cells have the titles of their columns.

    A narrow page shows each row as a block, in which a cell says what it is. The roles are given because
    blocks have none of their own.
    """
    column = 0

    def with_title(tag: re.Match[str]) -> str:
        nonlocal column
        if tag[1] == "tr":
            column = 0
            return f'{tag[0]} role="row"'
        column += 1
        if tag[1] == "th":
            return f'{tag[0]} role="rowheader"'
        return f'{tag[0]} role="cell" data-title="{escape(titles[column - 1])}"'

    # What isn't the template's own is escaped, so it has no tags.
    return Markup(_OPENING.sub(with_title, rows))  # noqa: S704


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.1f}%"
