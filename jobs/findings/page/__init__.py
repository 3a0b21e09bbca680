"""The templates and the style that the report and the page share."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import BaseLoader, ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

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


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.1f}%"
