"""How uncertain SmolVLM is about each person, by which Gemini is asked about the least certain ones first."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from actors.attribute import DISTRIBUTION_PREFIX, Attribute
from actors.attributes import AttributeSchema
from actors.gemini.protocol import Person
from actors.storage.tables import attributes_of

UNKNOWN = 1.0
"""Uncertainty about a person without an answer, which is as if all values were equally likely."""

_NO_ATTRIBUTES = AttributeSchema.from_json("[]")


def uncertainty_by_person(answers: pa.Table, weights: Mapping[str, float]) -> dict[Person, float]:
    """Return how uncertain the answers of a table are: the mean normalised entropy of their attributes.

    The entropy of an attribute's distribution is divided by the logarithm of the number of its values, so it
    is 0 if one value is certain and 1 if all are equally likely, for attributes with any number of values.
    Integers are left out: their many neighbouring values are never certain.

    Args:
        answers: A table of annotations, of any version that stored its attributes.
        weights: Weights of the attributes in the mean; 1 for those that aren't named.

    Returns:
        The uncertainty (0..1) of each person with an answer.
    """
    total = np.zeros(answers.num_rows)
    weight_of_row = np.zeros(answers.num_rows)
    for attribute in attributes_of(answers, _NO_ATTRIBUTES):
        weight = weights.get(attribute.name, 1.0)
        if attribute.type == "integer" or weight == 0:
            continue
        entropy = _normalised_entropy(answers, attribute)
        known = ~np.isnan(entropy)
        total[known] += weight * entropy[known]
        weight_of_row[known] += weight
    known = weight_of_row > 0
    mean = np.divide(total, weight_of_row, out=np.zeros_like(total), where=known)
    persons = zip(answers["frame_key"].to_pylist(), answers["person_index"].to_pylist(), strict=True)
    return {person: float(value) for person, value, k in zip(persons, mean, known, strict=True) if k}


def _normalised_entropy(answers: pa.Table, attribute: Attribute) -> NDArray[np.float64]:
    """Return the entropy of an attribute in each row, divided by its maximum; NaN where nothing is known."""
    count = len(attribute.values)
    confidence = answers[f"confidence_{attribute.name}"].to_numpy().astype(np.float64)
    # Where only the probability of the chosen value is known, the others share the rest.
    shares = np.repeat(((1 - confidence) / (count - 1))[:, None], count, axis=1)
    shares[:, 0] = confidence
    column = f"{DISTRIBUTION_PREFIX}{attribute.name}"
    if column in answers.column_names:
        lists = answers[column].combine_chunks()
        known = lists.is_valid().to_numpy(zero_copy_only=False)
        kept = pc.struct_field(lists.drop_null().flatten(), "probability").to_numpy()
        shares[known] = kept.reshape(-1, count)
    logarithms = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    entropy: NDArray[np.float64] = -(shares * logarithms).sum(axis=1) / math.log(count)
    return entropy
