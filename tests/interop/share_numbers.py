"""Estimate shares with the project's own code, in its own environment, for a comparison with ppi-python."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from jobs.evaluation.shares import Labelled, estimate_share


def main(folder: Path) -> None:
    """Write the persons and the estimates of some archives, with and without trust in the model."""
    found = []
    for seed, (right, share, labels) in enumerate([(0.9, 0.5, 300), (0.8, 0.3, 400), (0.95, 0.6, 1000)]):
        rng = np.random.default_rng(seed)
        n = 200_000
        truth = (rng.random(n) < share).astype(np.float64)
        predicted = np.where(rng.random(n) < right, truth, 1 - truth)
        drawn = rng.choice(n, labels, replace=False)
        labelled = Labelled(
            truth[drawn], np.ones(labels), predicted[drawn], np.full(labels, labels / n), np.arange(labels)
        )
        estimates = {}
        for name, trust in (("tuned", None), ("full", 1.0), ("none", 0.0)):
            one = estimate_share(float(predicted.sum()), n, labelled, trust)
            estimates[name] = [one.value, one.low, one.high]
        found.append(
            {
                "truth": truth[drawn].tolist(),
                "predicted": predicted[drawn].tolist(),
                "all": predicted.tolist(),
                "estimates": estimates,
            }
        )
    (folder / "shares.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
