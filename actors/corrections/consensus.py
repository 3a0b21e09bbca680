"""How the sources of an attribute's value are weighed: by the calibration, or else by their precedence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from actors.corrections.abstention import threshold_for
from actors.corrections.calibration import Calibration, Fit, read_calibration, same_values
from actors.corrections.settings import AGREEMENT, ConsensusSettings
from actors.storage.object_store import ObjectStore

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Given:
    """What one source says about an attribute of n persons.

    Attributes:
        is_given: [n] whether it gives a value, which may be null.
        value: [n] the value.
        confidence: float32 [n], how sure it is.
        source: Name of the source, or that of each row.
        asked_with: [n] the model, version and prompt of each answer, where that is known.
    """

    is_given: pa.Array
    value: pa.Array
    confidence: pa.Array
    source: str | pa.Array
    asked_with: pa.Array | None = None

    @classmethod
    def nothing(cls, values: pa.DataType, rows: int) -> Given:
        """Return a source that gives no value."""
        return cls(
            pa.array([False] * rows, pa.bool_()), pa.nulls(rows, values), pa.nulls(rows, pa.float32()), ""
        )

    def take(self, rows: pa.Array) -> Given:
        """Return some rows of one source."""
        asked_with = None if self.asked_with is None else self.asked_with.take(rows)
        is_given, value, confidence = self.is_given, self.value, self.confidence
        return Given(is_given.take(rows), value.take(rows), confidence.take(rows), self.source, asked_with)

    def where(self, shown: Bools) -> Given:
        """Return the source without the values of some rows."""
        return replace(self, is_given=pc.and_(self.is_given, pa.array(shown)))


@dataclass(frozen=True)
class Consensus:
    """How sources are weighed.

    Attributes:
        precedence: Sources of which the first one that has a value wins, from `ConsensusSettings`.
        calibration: What gold labels have taught, if anything.
        min_accuracy: The promised accuracy of shown values, by attribute; that of "" is for all others.
    """

    precedence: tuple[str, ...]
    calibration: Calibration | None = None
    min_accuracy: Mapping[str, float] | None = None

    @classmethod
    def of(cls, settings: ConsensusSettings, calibration: Calibration | None) -> Self:
        """Return the consensus of settings, with the calibration of the output."""
        return cls(settings.precedence, calibration, settings.promises)

    @cached_property
    def follows_from(self) -> tuple[str, ...]:
        """What final values follow from, beside answers and decisions: the precedence, if nothing else."""
        if self.calibration is None:
            return self.precedence
        promises = [f"{name}>={share}" for name, share in sorted((self.min_accuracy or {}).items())]
        return (*self.precedence, self.calibration.digest, *promises)

    def in_words(self, attributes: Iterable[str]) -> str:
        """Return one sentence about how values of annotators come about."""
        known = self.calibration.attributes if self.calibration is not None else {}
        weighed = [name for name in attributes if name in known]
        if not weighed:
            return (
                "final values follow consensus.precedence, because nothing is calibrated: two models alone "
                "don't show which one is right"
            )
        left = [name for name in attributes if name not in known]
        others = f"; consensus.precedence decides {', '.join(left)}" if left else ""
        return f"final values are weighed by gold labels for {', '.join(weighed)}{others}"

    def broken_promises(self, attributes: Iterable[str]) -> list[str]:
        """Return a line about attributes of which an accuracy is asked for and nothing is known, if any."""
        known = self.calibration.attributes if self.calibration is not None else {}
        broken = [name for name in attributes if self.promise(name) is not None and name not in known]
        line = (
            f"consensus.min_accuracy: nothing is withheld of {', '.join(broken)}: there is no calibration; "
            "decide a random audit, and run shopframe evaluate --truth corrections --calibrate"
        )
        return [line] if broken else []

    def promise(self, attribute: str) -> float | None:
        """Return the accuracy that is asked for, of an attribute."""
        promises = self.min_accuracy or {}
        return promises.get(attribute, promises.get(""))

    def fit(self, attribute: str) -> Fit | None:
        """Return the fit that an attribute's values follow from, or None without one.

        Where an accuracy is promised, it is fitted to half of the decisions, because the other half has to
        show from which confidence the promise is kept.
        """
        found = self.calibration.attributes.get(attribute) if self.calibration is not None else None
        if found is None:
            return None
        return found.whole if self.promise(attribute) is None else found.half

    @cached_property
    def thresholds(self) -> dict[str, float]:
        """The probability from which values are shown, of calibrated attributes with a promise."""
        if self.calibration is None:
            return {}
        return {
            name: threshold_for(found.held_out, promise)
            for name, found in self.calibration.attributes.items()
            if (promise := self.promise(name)) is not None
        }

    def weighed(self, attribute: str, given: Mapping[str, Given]) -> tuple[Given, NDArray[np.float64]] | None:
        """Return the value that calibrated answers speak for, or None without a calibration.

        A person about whom two annotators have answered has one only if both answers are calibrated.

        Args:
            attribute: The attribute.
            given: What annotators say, by annotator.

        Returns:
            The values, and the probability [n] that each is right, which is NaN where there is none.
        """
        fit = self.fit(attribute)
        asked = {name: given[name] for name in self.precedence if name in given}
        if fit is None or not any(name in fit.curves for name in asked):
            return None
        is_given = {name: _bools(one.is_given) for name, one in asked.items()}
        known, sure = {}, {}
        for name, curve in fit.curves.items():
            if name in asked and (asked_with := asked[name].asked_with) is not None:
                is_known = pc.is_in(asked_with, value_set=pa.array(curve.asked_with, pa.string()))
                known[name] = is_given[name] & _bools(is_known)
                confidence = asked[name].confidence.to_numpy(zero_copy_only=False).astype(np.float64)
                sure[name] = curve.apply(confidence)
        number = sum(one.astype(np.int64) for one in is_given.values())
        first = next(iter(asked.values()))
        probability = np.full(len(first.value), np.nan)
        value, source = pa.nulls(len(first.value), first.value.type), pa.nulls(len(first.value), pa.string())
        for name, is_known in known.items():
            alone = is_known & (number == 1)
            probability = np.where(alone, sure[name], probability)
            value = pc.if_else(pa.array(alone), asked[name].value, value)
            source = pc.if_else(pa.array(alone), name, source)
        pair = fit.weighing
        if pair is not None and all(name in known for name in pair.annotators):
            one, other = pair.annotators
            both = known[one] & known[other] & (number == 2)
            said = [asked[name].value for name in pair.annotators]
            chances = pair.apply(said, [sure[name] for name in pair.annotators])
            is_first = chances[0] >= chances[1]
            probability = np.where(both, np.maximum(*chances), probability)
            chosen = pc.if_else(pa.array(is_first), *said)
            names = pc.if_else(pa.array(is_first), one, other)
            if AGREEMENT in self.precedence:
                names = pc.if_else(pa.array(same_values(*said)), AGREEMENT, names)
            value = pc.if_else(pa.array(both), chosen, value)
            source = pc.if_else(pa.array(both), names, source)
        confidence = pa.array(probability, pa.float32(), mask=np.isnan(probability))
        return Given(pa.array(~np.isnan(probability)), value, confidence, source), probability


def read_consensus(store: ObjectStore, settings: ConsensusSettings) -> Consensus:
    """Return the consensus of settings, with the calibration of an output if it has one.

    Raises:
        OutputError: The calibration can't be read by this version.
    """
    kept = read_calibration(store)
    return Consensus.of(settings, None if kept is None else kept[0])


def _bools(values: pa.Array) -> Bools:
    return np.asarray(values.to_numpy(zero_copy_only=False), np.bool_)
