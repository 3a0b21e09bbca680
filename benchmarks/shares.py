"""Do intervals of shares contain the truth, and how much narrower are they than those of decisions alone?

    python -m benchmarks.shares [--repetitions 500] [--labels 300] [--quick]

The archive is the persons of demo scenes, whose truth is known. In each repetition other persons are drawn
and decided, and the share of women is estimated from these decisions and the answers of a model that is right
about 90% and leans to one side. Printed are in how many repetitions the 95% interval contains the share in
the archive, its mean width, and the same of the decisions alone. Then the same of two audits together: one
among everybody, and one among the people of a third of the cameras and minutes, of which half was decided.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.corrupted_answers import people_of
from benchmarks.figures import Figures
from jobs.evaluation.shares import Labelled, estimate_share

EPISODES = 700

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Archive:
    """The n persons of an archive: who is a woman, whom the model takes for one, and who is seen together."""

    truth: NDArray[np.float64]
    predicted: NDArray[np.float64]
    clusters: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Coverage:
    """How often intervals contain the truth, and how wide they are."""

    contains: float
    alone_contains: float
    width: float
    alone_width: float

    @property
    def relative_width(self) -> float:
        """Width of the intervals over that of the decisions alone."""
        return self.width / self.alone_width


def archive_of(seed: int, wrong_women: float = 0.12, wrong_men: float = 0.08) -> Archive:
    """Return the persons of demo scenes, and a model that errs once for each person of an episode.

    Args:
        seed: Seed of the scenes.
        wrong_women: Share of the women that the model takes for men.
        wrong_men: Share of the men that the model takes for women.
    """
    people = people_of(seed, EPISODES)
    truth = np.array([value == "female" for value in people.truth["gender"]], np.float64)
    # The hardness is the same in all frames of a person, so the errors about a person are the same too.
    chance = np.argsort(np.argsort(people.hardness, kind="stable"), kind="stable") / len(people)
    is_wrong = chance < np.where(truth == 1, wrong_women, wrong_men)
    return Archive(truth, np.where(is_wrong, 1 - truth, truth), people.clusters)


def simulate(archive: Archive, repetitions: int, labels: int, seed: int, drawn: int = 0) -> Coverage:
    """Draw and decide persons again and again, and count what the intervals contain.

    Args:
        archive: The persons.
        repetitions: Number of draws.
        labels: Number of persons that are decided, the first ones of the draw.
        seed: Seed of the draws.
        drawn: Number of persons that are drawn; by default as many as are decided.
    """
    rng = np.random.default_rng(seed)
    n = len(archive.truth)

    def draw() -> tuple[Ints, Floats]:
        return rng.choice(n, labels, replace=False), np.full(n, max(labels, drawn) / n)

    return _covered(archive, repetitions, draw)


def simulate_two_audits(archive: Archive, repetitions: int, labels: int, seed: int) -> Coverage:
    """Do the same with an audit among everybody and one among some, which is half decided.

    Args:
        archive: The persons.
        repetitions: Number of draws.
        labels: Number of persons that are drawn in each audit.
        seed: Seed of the draws.
    """
    rng = np.random.default_rng(seed)
    n = len(archive.truth)
    is_some = archive.clusters % 3 == 0
    some = np.flatnonzero(is_some)

    def draw() -> tuple[Ints, Floats]:
        one = rng.choice(n, labels, replace=False)
        other = rng.choice(some, labels, replace=False)[: labels // 2]
        # As `jobs.evaluation.gold` has it: by the decided ones of each draw that a person could come into.
        missed = (1 - len(one) / n) * np.where(is_some, 1 - len(other) / len(some), 1.0)
        return np.union1d(one, other), 1 - missed

    return _covered(archive, repetitions, draw)


def _covered(archive: Archive, repetitions: int, draw: Callable[[], tuple[Ints, Floats]]) -> Coverage:
    """Count what intervals contain. `draw` returns who is decided, and the probability of everybody."""
    n, share = len(archive.truth), archive.truth.mean()
    found = []
    for _ in range(repetitions):
        decided, probability = draw()
        labelled = Labelled(
            archive.truth[decided],
            np.ones(len(decided)),
            archive.predicted[decided],
            probability[decided],
            archive.clusters[decided],
        )
        row = []
        for trust in (None, 0.0):
            one = estimate_share(float(archive.predicted.sum()), n, labelled, trust)
            assert one.low is not None
            assert one.high is not None
            row += [one.low <= share <= one.high, one.high - one.low]
        found.append(row)
    contains, width, alone_contains, alone_width = np.mean(np.array(found, np.float64), axis=0).tolist()
    return Coverage(contains, alone_contains, width, alone_width)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shares", description=__doc__)
    parser.add_argument("--repetitions", type=int, default=500)
    parser.add_argument("--labels", type=int, default=300)
    parser.add_argument("--quick", action="store_true", help="one archive, 5 times, to check that it runs")
    given = parser.parse_args()
    repetitions = 5 if given.quick else given.repetitions
    figures = Figures("shares", given.quick)
    # More than 97% was ruled out for one audit only: of two, the intervals may be a little too wide.
    for audits, simulated, most in (
        ("one audit", simulate, 97),
        ("two audits", simulate_two_audits, None),
    ):
        for seed in range(1 if given.quick else 3):
            archive = archive_of(seed)
            found = simulated(archive, repetitions, given.labels, seed)
            right = float((archive.truth == archive.predicted).mean())
            figures.add(
                f"{audits}, seed {seed}: intervals with truth",
                100 * found.contains,
                "%",
                at_least=93,
                at_most=most,
                note=f"alone {found.alone_contains:.1%}; {len(archive.truth):,} persons, {right:.1%} right",
            )
            figures.add(
                f"{audits}, seed {seed}: width against alone",
                found.relative_width,
                "times",
                at_most=0.7,
                note=f"{found.width:.3f} and {found.alone_width:.3f}",
            )


if __name__ == "__main__":
    main()
