"""What gold labels have taught about annotators: kept in the output, and applied to final values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from actors.attribute import AttributeValue
from actors.errors import OutputError, PreconditionError, StoreError
from actors.fingerprint import fingerprint_of
from actors.storage import layout
from actors.storage.object_store import ObjectStore

Floats = NDArray[np.float64]

_MOST_SURE = 1e-4
"""Distance from 0 and 1 that confidences are taken to have at least."""


_PROVENANCE = ("model", "model_version", "prompt_sha256")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Curve(_Part):
    """From the confidence of an annotator's answer to the probability that it is right.

    Attributes:
        method: `constant`, whatever the confidence; `temperature` and `sigmoid`, a line on log-odds,
            through 0 or not; `isotonic`, straight lines between points.
        intercept: Log-odds of `constant`, or where the line begins.
        slope: Slope of the line; one over the temperature.
        confidences: Confidences of the points.
        probabilities: Probabilities of the points.
        unsure: Probability of an answer without a confidence.
        asked_with: The models, versions and prompts whose answers it was fitted to, as `asked_with` has them.
        labels: Number of decisions that it was fitted to.
        log_loss: Cross-validated log loss of each method that was compared.
    """

    method: Literal["constant", "temperature", "sigmoid", "isotonic"]
    intercept: float = 0.0
    slope: float = 0.0
    confidences: tuple[float, ...] = ()
    probabilities: tuple[float, ...] = ()
    unsure: float
    asked_with: tuple[str, ...]
    labels: int
    log_loss: dict[str, float]

    def apply(self, confidence: Floats) -> Floats:
        """Return the probability that each answer is right.

        Args:
            confidence: [n] confidences, NaN where there is none.
        """
        known = np.nan_to_num(confidence, nan=0.5)
        if self.method == "isotonic":
            sure: Floats = np.interp(known, self.confidences, self.probabilities)
        else:
            sure = expit(self.intercept + self.slope * logit(known))
        return np.where(np.isnan(confidence), self.unsure, sure)


class Weighing(_Part):
    """How two annotators' answers are weighed against each other.

    Attributes:
        method: `votes`, by how often each is right where they agree and where they differ; `stacked`, by a
            logistic regression on their calibrated log-odds; `confusion`, by Bayes' rule from how often each
            answers what for which true value, as in Dawid and Skene's model; `joint`, by a logistic
            regression on both.
        annotators: The two.
        agree: Log-odds that a common value is right: intercept, weights of the first's and the second's odds
            and, for `joint`, of how much likelier than no answer the first and the second are by Bayes' rule.
        differ: The same of each outcome where they differ: the first is right, the second, neither.
        values: True values of `confusion` and `joint`.
        prior: Log of their shares.
        answers: For each annotator and true value, the log of the share of each answer, as in `values`.
        labels: Number of decisions about persons whom both have answered.
        log_loss: Cross-validated log loss of each method that was compared.
    """

    method: Literal["votes", "stacked", "confusion", "joint"]
    annotators: tuple[str, str]
    agree: tuple[float, ...] = (0.0, 0.0, 0.0)
    differ: tuple[tuple[float, ...], ...] = ()
    values: tuple[AttributeValue, ...] = ()
    prior: tuple[float, ...] = ()
    answers: tuple[tuple[tuple[float, ...], ...], ...] = ()
    labels: int
    log_loss: dict[str, float]

    def apply(self, said: Sequence[pa.Array], sure: Sequence[Floats]) -> tuple[Floats, Floats]:
        """Return the probabilities that the first and that the second answer are right.

        Args:
            said: [2, n] the answers of both.
            sure: [2, n] their calibrated probabilities.
        """
        if self.method == "confusion":
            return self._by_confusion(said)
        odds = [logit(one) for one in sure]
        is_same = same_values(*said)
        if self.method == "joint":
            odds += likelier(self._by_confusion(said), is_same)
        both = expit(_line(self.agree, odds))
        shares = softmax(np.stack([_line(one, odds) for one in self.differ]))
        return np.where(is_same, both, shares[0]), np.where(is_same, both, shares[1])

    def _by_confusion(self, said: Sequence[pa.Array]) -> tuple[Floats, Floats]:
        codes = [codes_of(one, self.values) for one in said]
        score = np.repeat(np.array(self.prior)[:, None], len(codes[0]), axis=1)
        for table, code in zip(self.answers, codes, strict=True):
            # An answer that no decision was about says nothing.
            score += np.where(code >= 0, np.array(table)[:, code], 0)
        shares = softmax(score)
        rows = np.arange(len(codes[0]))
        first, second = (np.where(code >= 0, shares[code, rows], 0.0) for code in codes)
        return first, second


class Fit(_Part):
    """What one set of decisions says about an attribute.

    Attributes:
        curves: Curves by annotator, of those with enough decisions.
        weighing: How two of them are weighed, if both have a curve.
    """

    curves: dict[str, Curve]
    weighing: Weighing | None = None


class HeldOut(_Part):
    """The decisions that a fit has not seen, by which it is judged.

    Attributes:
        scores: Calibrated probability of each person's value.
        right: Whether the value is right.
        weights: One over the probability of inclusion.
        worth: Independent persons that one of these persons is worth, since those of a frame are alike.
    """

    scores: tuple[float, ...]
    right: tuple[bool, ...]
    weights: tuple[float, ...]
    worth: float


class AttributeCalibration(_Part):
    """What is known about an attribute.

    Attributes:
        whole: Fitted to all decisions.
        half: Fitted to half of them, for attributes of which an accuracy is promised.
        held_out: The other half.
    """

    whole: Fit
    half: Fit
    held_out: HeldOut


class Calibration(_Part):
    """The content of `calibration.json`.

    Attributes:
        version: Version of the form.
        decisions: Number of random decisions that it was fitted to.
        decisions_digest: Changes with these decisions.
        min_labels: Number of decisions about an annotator's answers below which there is no curve.
        attributes: By attribute; those with too few decisions, and integers, are missing.
    """

    version: Literal[1] = 1
    decisions: int
    decisions_digest: str
    min_labels: int
    attributes: dict[str, AttributeCalibration]

    @property
    def digest(self) -> str:
        """What final values follow from."""
        return fingerprint_of(self.model_dump(mode="json"))[:16]


def read_calibration(store: ObjectStore) -> tuple[Calibration, str] | None:
    """Return the calibration of an output with its etag, or None if it has none.

    Raises:
        OutputError: It can't be read by this version.
    """
    try:
        content, etag = store.read_with_etag(layout.CALIBRATION)
    except FileNotFoundError:
        return None
    try:
        return Calibration.model_validate_json(content), etag
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        raise OutputError(
            f"{store.full(layout.CALIBRATION)}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}; "
            "delete it and calibrate again with shopframe evaluate --truth corrections --calibrate"
        ) from None


def write_calibration(store: ObjectStore, calibration: Calibration, before: str | None) -> None:
    """Keep a calibration in the output, in place of the one with the etag `before`.

    Raises:
        StoreError: Somebody else has calibrated meanwhile.
    """
    content = calibration.model_dump_json(indent=1).encode()
    try:
        if before is None:
            store.create(layout.CALIBRATION, content)
        else:
            store.replace(layout.CALIBRATION, content, before)
    except PreconditionError as error:
        raise StoreError(f"{error}: somebody else has calibrated meanwhile; run the command again") from error


def logit(share: Floats) -> Floats:
    """Return log-odds, of shares that are kept a little away from 0 and 1."""
    inner = np.clip(share, _MOST_SURE, 1 - _MOST_SURE)
    odds: Floats = np.log(inner / (1 - inner))
    return odds


def expit(odds: Floats) -> Floats:
    """Return the shares of log-odds."""
    share: Floats = 1 / (1 + np.exp(-odds))
    return share


def _line(weights: Sequence[float], odds: Sequence[Floats]) -> Floats:
    line: Floats = weights[0] + np.tensordot(np.array(weights[1:]), np.stack(odds), 1)
    return line


def likelier(chances: tuple[Floats, Floats], is_same: NDArray[np.bool_]) -> list[Floats]:
    """Return how much likelier the first and the second answer are than that neither is right, as logs.

    Args:
        chances: [n] probabilities of both. Where they agree, they are about the same value.
        is_same: [n] whether they agree. The second is then not counted again.
    """
    neither = np.where(is_same, 1 - chances[0], 1 - chances[0] - chances[1])
    first, second, none = (np.log(np.clip(one, _MOST_SURE, 1)) for one in (*chances, neither))
    return [first - none, np.where(is_same, 0.0, second - none)]


def softmax(scores: Floats) -> Floats:
    """Return shares from the logs of what they are proportional to, along the first axis."""
    shares: Floats = np.exp(scores - scores.max(0))
    shares /= shares.sum(0)
    return shares


def codes_of(said: pa.Array, values: Sequence[AttributeValue]) -> NDArray[np.int64]:
    """Return the place of each answer among values, of which null may be one; -1 where it is none of them."""
    found = pc.index_in(said, value_set=pa.array(values, said.type))
    return np.asarray(pc.fill_null(found, -1).to_numpy(zero_copy_only=False), np.int64)


def same_values(one: pa.Array, other: pa.Array) -> NDArray[np.bool_]:
    """Return whether answers are equal, null and null too."""
    both_null = pc.and_(pc.is_null(one), pc.is_null(other))
    same = pc.or_(pc.fill_null(pc.equal(one, other), False), both_null)
    return np.asarray(same.to_numpy(zero_copy_only=False), np.bool_)


def asked_with(columns: Mapping[str, pa.ChunkedArray]) -> pa.Array | None:
    """Return the model, version and prompt of each answer as one text, from an annotator's columns."""
    if not all(name in columns for name in _PROVENANCE):
        return None
    parts = [pc.fill_null(columns[name].cast(pa.string()), "") for name in _PROVENANCE]
    joined = pc.binary_join_element_wise(*parts, "\n")
    return joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined
