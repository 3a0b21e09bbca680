"""The page of the report: a template, its style and its script, in one file that makes no request."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def render(content: Mapping[str, Any]) -> str:
    """Return the page as HTML.

    Everything is escaped unless it is the page's own: nothing that a model, a file name or a person has
    written becomes markup. The page's policy allows only this style, this script and these pictures, and no
    request.

    Args:
        content: What the template names. Charts are SVG that `jobs.reporting.charts` has made.
    """
    environment = Environment(
        loader=PackageLoader(__name__, ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    environment.filters["chart"] = Markup
    style, script = (_own(name) for name in ("report.css", "report.js"))
    pictures = "data:" if content["folder"] is None else "data: file: 'self'"
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src {pictures}; "
        "base-uri 'none'; form-action 'none'"
    )
    template = environment.get_template("report.html")
    own = {"policy": policy, "style": Markup(style), "script": Markup(script)}  # noqa: S704
    return template.render(content, **own).lstrip()


def _own(name: str) -> str:
    return files(__name__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.1f}%"
