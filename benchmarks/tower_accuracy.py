"""What vision towers in OpenVINO cost in accuracy, on people of the demo's scenes, whose truth is known."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from actors.smolvlm.guided_engine import GuidedEngine
from actors.smolvlm.settings import resolve_smolvlm
from actors.smolvlm.vision_tower import VisionTower
from demo.training.demo_settings import demo_schema, demo_settings
from demo.training.smolvlm_accuracy import accuracy
from demo.training.smolvlm_crops import cut_people
from jobs.run.tower_trial import make_candidates

_SEED = 6_000
"""Seed of scenes that the demo's model was not trained on."""

_CALIBRATION = 32


def losses(people: int, threads: int) -> Iterator[tuple[str, str, float]]:
    """Yield for each precision the attribute that loses most, and the points of accuracy that it loses.

    The model is the demo's. Other people than those that are asked about are quantised on.

    Args:
        people: Number of people to ask about.
        threads: Number of threads.
    """
    schema = demo_schema()
    settings = demo_settings().smolvlm.model_copy(update={"batch_size": 32})
    resolved = resolve_smolvlm(settings, schema)
    engine = GuidedEngine(settings, resolved, schema)
    cut = list(cut_people(_SEED, people + _CALIBRATION, schema, jitter=True))
    calibration, asked = cut[:_CALIBRATION], cut[_CALIBRATION:]
    integers = {attribute.name for attribute in schema if attribute.type == "integer"}
    truth = np.array([person.values for person in asked])

    def right() -> dict[str, float]:
        answers = [answer.values for answer in engine.annotate([person.crop for person in asked])]
        found = accuracy(answers, truth, schema)
        return {name: share for name, share in found.items() if name not in integers}

    in_torch = right()
    for candidate in make_candidates(engine, resolved.image_size_px, [person.crop for person in calibration]):
        engine.vision = VisionTower(candidate.files, candidate.arithmetic, threads)
        lost = {name: 100 * (in_torch[name] - share) for name, share in right().items()}
        worst = max(lost, key=lambda name: lost[name])
        yield candidate.precision, worst, lost[worst]
