"""Cohen's kappa: how much more two annotators agree than they would by chance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from jobs.evaluation.proportion import Proportion

_Z = float(norm.ppf(0.975))


@dataclass(frozen=True, slots=True)
class Kappa:
    """Cohen's kappa with its 95% interval.

    1 is full agreement and 0 is as much as by chance. All values are None where kappa says nothing: nothing
    was compared, or one annotator always gave the same value, which makes it 0 whatever the other says.

    Source of the interval: Fleiss, Cohen and Everitt, "Large sample standard errors of kappa and weighted
    kappa", 1969, equation 13. For annotators that always agree it would have no width, so its lower end is
    then that of Wilson's interval of the agreement. Both assume independent observations, so they are too
    narrow if the same person is seen in many frames.
    """

    value: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, counts: npt.NDArray[np.int64]) -> Self:
        """Return the kappa of a confusion matrix.

        Args:
            counts: (k, k) number of observations by value of the first (rows) and second annotator.
        """
        n = int(counts.sum())
        if n == 0:
            return cls(None, None, None)
        shares = counts / n
        rows, columns, agreed = shares.sum(axis=1), shares.sum(axis=0), np.diagonal(shares)
        by_chance = float(rows @ columns)
        if rows.max() == 1 or columns.max() == 1:
            return cls(None, None, None)
        if np.trace(counts) == n:
            low = Proportion.of(n, n).low or 0.0
            return cls(1.0, (low - by_chance) / (1 - by_chance), 1.0)
        kappa = (float(agreed.sum()) - by_chance) / (1 - by_chance)
        same = agreed @ (1 - (rows + columns) * (1 - kappa)) ** 2
        chance = (columns[:, None] + rows[None, :]) ** 2 * shares
        other = (1 - kappa) ** 2 * (chance.sum() - np.diagonal(chance).sum())
        variance = (same + other - (kappa - by_chance * (1 - kappa)) ** 2) / (n * (1 - by_chance) ** 2)
        margin = _Z * float(np.sqrt(max(variance, 0)))
        return cls(kappa, max(-1.0, kappa - margin), min(1.0, kappa + margin))
