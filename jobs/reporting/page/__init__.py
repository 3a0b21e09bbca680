"""The page of the report: a template, its style and its script, in one file that makes no request."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import PackageLoader
from markupsafe import Markup

from jobs.findings import page as findings


def render(content: Mapping[str, Any]) -> str:
    """Return the page as HTML.

    The page's policy allows only this style, this script and these pictures, and no request.

    Args:
        content: What the template names. Charts are SVG that `jobs.findings.drawing` has made.
    """
    style, script = findings.style() + _own("report.css"), _own("report.js")
    pictures = "data:" if content["folder"] is None else "data: file: 'self'"
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src {pictures}; "
        "base-uri 'none'; form-action 'none'"
    )
    template = findings.environment(PackageLoader(__name__, "")).get_template("report.html")
    own = {"policy": policy, "style": Markup(style), "script": Markup(script)}  # noqa: S704
    return template.render(content, **own).lstrip()


def _own(name: str) -> str:
    return files(__name__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
