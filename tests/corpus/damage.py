"""Draw damage of good files and values of any shape, for the property tests."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tests.support.fault_rounds import ROUNDS

EXAMPLES = 25
few = settings(
    max_examples=EXAMPLES * (1 + 4 * ROUNDS),
    deadline=None,
    derandomize=not ROUNDS,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
"""A few examples, the same each time; `make torture` takes more, and others."""

values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.text(max_size=12),
        st.sampled_from(["=1+1", "<b>", "../..", "\ud800", "\0", "null", "NaN", "1e999"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
"""Values as JSON has them, and some that it can't have."""


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Draw a file that was cut, or in which some bytes were changed, removed, added or copied."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        length = draw(st.integers(1, 8))
        kind = draw(st.sampled_from(["change", "change", "remove", "add", "cut", "zeros", "ones", "copy"]))
        before, after = content[:at], content[at + length :]
        if kind == "change":
            content = before + draw(st.binary(min_size=length, max_size=length)) + after
        elif kind == "remove":
            content = before + after
        elif kind == "add":
            content = before + draw(st.binary(max_size=64)) + content[at:]
        elif kind == "cut":
            content = before
        elif kind in ("zeros", "ones"):
            content = before + (b"\0" if kind == "zeros" else b"\xff") * length + after
        else:
            content = content[: at + 512] + content[at:]
    return content


@st.composite
def changed(draw: st.DrawFn, document: Any) -> Any:
    """Draw a JSON document in which a value somewhere is another one, or is gone."""
    if not isinstance(document, dict | list) or not document or draw(st.integers(0, 5)) == 0:
        return draw(values)
    keys = sorted(document) if isinstance(document, dict) else range(len(document))
    key = draw(st.sampled_from(list(keys)))
    found = dict(document) if isinstance(document, dict) else list(document)
    if draw(st.integers(0, 9)) == 0:
        del found[key]
    else:
        found[key] = draw(changed(document[key]))
    return found


def as_json(documents: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    """Return the documents as JSON, in which numbers may be NaN and texts half of a surrogate pair."""
    return documents.map(lambda document: json.dumps(document).encode())
