"""Cohen's kappa against the publication that its interval comes from, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from jobs.reporting.kappa import Kappa

PUBLISHED = np.array([[106, 10, 4], [22, 28, 10], [2, 12, 6]])
"""The example of Fleiss, Cohen and Everitt, 1969, as counts: kappa is 0.429 and its variance 0.002885."""


def test_the_published_example_has_the_published_interval():
    kappa = Kappa.of(PUBLISHED)
    assert kappa.value == pytest.approx(0.429, abs=0.0005)
    margin = 1.96 * 0.002885**0.5
    assert (kappa.low, kappa.high) == pytest.approx((0.4286 - margin, 0.4286 + margin), abs=0.0005)


def test_kappa_is_that_of_scikit_learn():
    rng = np.random.default_rng(3)
    for _ in range(20):
        counts = rng.integers(0, 50, (4, 4))
        rows, columns = np.indices(counts.shape)
        some, others = (np.repeat(labels.ravel(), counts.ravel()) for labels in (rows, columns))
        assert Kappa.of(counts).value == pytest.approx(cohen_kappa_score(some, others))


def test_full_agreement_of_a_few_is_less_sure_than_that_of_many():
    few, many = Kappa.of(np.diag([5, 7])), Kappa.of(np.diag([5000, 7000]))
    # Wilson's interval of 12 of 12 begins at 0.757, and agreement by chance is (5 * 5 + 7 * 7) / 144.
    by_chance = 74 / 144
    assert few.value == many.value == few.high == many.high == 1
    assert few.low == pytest.approx((0.7575 - by_chance) / (1 - by_chance), abs=0.0005)
    assert many.low == pytest.approx(0.9993, abs=0.0005)


@pytest.mark.parametrize("counts", [np.zeros((2, 2), np.int64), np.array([[9]]), np.array([[9, 2], [0, 0]])])
def test_without_a_choice_there_is_no_kappa(counts):
    assert Kappa.of(counts) == Kappa(None, None, None)
