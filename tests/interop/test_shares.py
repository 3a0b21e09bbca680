"""Shares agree with those of ppi-python, which the authors of prediction-powered inference have written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ppi_py import ppi_mean_ci, ppi_mean_pointestimate


def test_shares_and_intervals_are_those_of_ppi_python(archives: list[dict[str, Any]]):
    assert len(archives) == 3
    for archive in archives:
        truth, predicted, everybody = (np.array(archive[name]) for name in ("truth", "predicted", "all"))
        for name, trust in (("tuned", None), ("full", 1.0), ("none", 0.0)):
            value, low, high = archive["estimates"][name]
            (theirs,) = np.atleast_1d(ppi_mean_pointestimate(truth, predicted, everybody, lam=trust))
            ends = ppi_mean_ci(truth, predicted, everybody, alpha=0.05, lam=trust)
            their_low, their_high = (float(np.atleast_1d(end)[0]) for end in ends)
            assert value == pytest.approx(theirs, abs=1e-3)
            # Theirs are normal intervals and ours Wilson's, of nearly the same width.
            assert high - low == pytest.approx(their_high - their_low, rel=0.03)
            assert (low, high) == pytest.approx((their_low, their_high), abs=3e-3)
