"""Configuration files that are broken, run code, or expand."""

from __future__ import annotations

import os
import pickle
import tempfile
from itertools import pairwise
from pathlib import Path

from tests.corpus.kinds import BadText

CANARY = Path(tempfile.gettempdir(), f"shopframe-canary-{os.getpid()}")
"""A file that is there after anything has run code of the data."""

_TOUCH = f"touch {CANARY}"


class RunsCode:
    """An object that runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (_TOUCH,)


def _nested_aliases(opened: str, closed: str, key: str) -> str:
    """Return eight levels of ten aliases each, of which the last one stands for a hundred million values."""
    names = "abcdefghi"
    lines = [f"a: &a {opened}{', '.join(key.format(n) + 'x' for n in range(10))}{closed}"]
    for one, following in pairwise(names):
        inner = ", ".join(key.format(n) + f"*{one}" for n in range(10))
        lines.append(f"{following}: &{following} {opened}{inner}{closed}")
    return "\n".join(lines)


def _refused(name: str, text: str | bytes, says: str) -> BadText:
    return BadText(f"configuration: {name}", text if isinstance(text, bytes) else text.encode(), says)


CONFIGURATIONS = (
    _refused("not YAML", "input: [", "not valid YAML"),
    _refused("not UTF-8", b"\xff\xfei\0", "can't be read"),
    _refused("zero bytes", b"input:\0", "not valid YAML"),
    _refused("two documents", "{}\n---\n{}", "another document"),
    _refused("a text", "hello", "write sections with keys"),
    _refused("section that is a list", "input: [1]", "input: Input should be a valid dictionary"),
    _refused("unknown section", "inputs: {}", "did you mean input?"),
    _refused("unknown key", "input: {urii: a}", "did you mean uri?"),
    _refused("key twice", "input: {uri: a}\ninput: {uri: b}", "the key input is there twice"),
    _refused("keys that aren't text", "input: {1: 2}", "Keys should be strings"),
    _refused("wrong type", "input: {max_image_bytes: many}", "should be a valid integer"),
    _refused("number of 5,000 digits", f"input: {{max_image_bytes: {'9' * 5000}}}", "not valid YAML"),
    _refused("number of 20,000 bits", f"input: {{max_image_bytes: 0x{'f' * 5000}}}", "more than 64 bits"),
    _refused("NaN", "run: {stall_fail_s: .nan}", "greater than 0"),
    _refused("date that doesn't exist", "input: {uri: 2026-13-45}", "month must be in 1..12"),
    _refused("half of a surrogate pair", 'input: {uri: "\\ud800"}', "surrogate"),
    _refused("5,000 lists in lists", f"input: {'[' * 5000}{']' * 5000}", "nested more than 50 deep"),
    _refused("aliases of aliases of lists", _nested_aliases("[", "]", ""), "more than 100,000 values"),
    _refused(
        "aliases of aliases of mappings", _nested_aliases("{", "}", "k{}: "), "more than 100,000 values"
    ),
    _refused("value that contains itself", "input: &a {more: *a}", "contains itself"),
    _refused(
        "Python's tag that runs a command", f"input: !!python/object/apply:os.system ['{_TOUCH}']", "tag"
    ),
    _refused("Python's tag of a function", "input: !!python/name:os.system", "tag"),
    _refused(
        "pickled object",
        f"input: !!python/object/apply:pickle.loads [{pickle.dumps(RunsCode(), 0)!r}]",
        "not valid YAML",
    ),
    _refused(
        "attribute named as markup", "schema: {attributes: {'<b>': {type: boolean}}}", "as in a Python name"
    ),
    BadText(
        "configuration: prompt with a template that reaches into Python",
        b"smolvlm: {prompt: '{0.__class__} {schema.__init__.__globals__} {schema}'}",
        remark="only {schema} and {uncertainty} are replaced",
    ),
)
