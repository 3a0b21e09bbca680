"""The documentation has the outcome of every kind of bad input."""

from __future__ import annotations

from tests.conftest import REPO_ROOT
from tests.corpus.outcomes import outcomes, table


def test_the_documentation_has_the_outcome_of_every_kind():
    documented = (REPO_ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert table() in documented, "print the table by: python -m tests.corpus.outcomes"


def test_each_kind_has_a_name_of_its_own_and_there_are_many():
    names = [name for name, _ in outcomes()]
    assert len(set(names)) == len(names) >= 60
