"""The section How sure: shares with intervals, accuracy, coverage and calibration curves."""

from __future__ import annotations

from typing import Any

import numpy as np

from actors.corrections.calibration import Curve, read_calibration
from actors.storage.object_store import ObjectStore
from jobs.evaluation.audited import AuditedOutput
from jobs.evaluation.calibration_points import calibration_points
from jobs.evaluation.share_of_output import value_shares
from jobs.evaluation.shares import MIN_LABELS
from jobs.exchange.person_queries import annotators_in
from jobs.findings.charts import calibration_chart
from jobs.run.measured import measured_accuracy

_GRID = 41
"""Points at which a curve is drawn."""


def how_sure_section(store: ObjectStore) -> dict[str, Any]:
    """Return what the template shows as `sure`.

    Raises:
        ConfigError: The output has no run, or no consolidated persons.
    """
    audited = AuditedOutput.of(store)
    kept = read_calibration(store)
    attributes = {} if kept is None else kept[0].attributes
    curves: list[dict[str, Any]] = []
    for attribute in audited.judged():
        known = attributes[attribute.name].whole.curves if attribute.name in attributes else {}
        for annotator in annotators_in(audited.table.schema.names):
            points = calibration_points(audited.gold, attribute, annotator)
            if points:
                said_by = f"{annotator} about {attribute.name}"
                curve = known.get(annotator)
                chart = calibration_chart(f"curve{len(curves)}", said_by, points, _drawn(curve))
                curves.append({"said_by": said_by, "points": points, "curve": curve, "chart": chart})
    shares = value_shares(audited)
    decided = [value.estimate for values in shares.values() for value in values]
    outside = {name: audited.gold.outside(name) for name in shares}
    return {
        "shares": shares,
        "persons": audited.table.count_rows(),
        "has_intervals": any(estimate.low is not None for estimate in decided),
        "decided": max((estimate.n for estimate in decided), default=0),
        "min_labels": MIN_LABELS,
        "outside": outside,
        "drawn_among": {name: audited.gold.drawn_among(name) for name in shares},
        "unrecorded": audited.gold.unrecorded,
        "accuracy": measured_accuracy(store),
        "curves": curves,
    }


def _drawn(curve: Curve | None) -> list[tuple[float, float]]:
    if curve is None:
        return []
    stated = np.linspace(0, 1, _GRID)
    return list(zip(stated.tolist(), curve.apply(stated).tolist(), strict=True))
