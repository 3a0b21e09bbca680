"""Whether an output's vision tower runs in OpenVINO, and what was compared to decide it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Literal

from pydantic import BaseModel, ConfigDict

from actors.attributes import AttributeSchema
from actors.records import Annotation

FEWEST_CROPS, MOST_CROPS = 16, 64
"""Number of crops of the input that are compared: below the first they say too little."""

LEAST_COSINE = 0.99
LEAST_EQUAL, LEAST_EQUAL_OF_ONE = 0.99, 0.97
"""Share of equal answers, over all attributes and in each of them."""

MOST_TIME = 0.95
"""Share of torch's time that may be taken to count as faster."""


class TowerChoice(BaseModel):
    """The outcome of a trial. The output keeps it, and its later runs follow it.

    Attributes:
        taken: Whether the network takes the place of torch's tower.
        network: Its SHA-256 (see `network_sha256`).
        precision: Precision of the network.
        arithmetic: Precision of its layers that aren't quantised.
        text_precision: Precision of the text model, which stays in torch.
        crops: Number of crops that were compared; 0 if the network was too slow to be compared.
        cosine: Smallest cosine between the features of both towers, over the crops.
        equal: Share of equal answers by attribute.
        milliseconds: Time of a crop with the network, text model included.
        torch_milliseconds: Time of the same crops in torch alone.
        packages: Versions of the packages that made and ran both.
    """

    model_config = ConfigDict(frozen=True)

    taken: bool
    network: str
    precision: Literal["int8", "bfloat16", "float32"]
    arithmetic: Literal["bfloat16", "float32"]
    text_precision: Literal["bfloat16", "float32"]
    crops: int
    cosine: float
    equal: Mapping[str, float]
    milliseconds: float
    torch_milliseconds: float
    packages: Mapping[str, str]

    @property
    def share_of_time(self) -> float:
        """Time of a crop with the network, as a share of that in torch."""
        return self.milliseconds / self.torch_milliseconds

    @property
    def equal_of_all(self) -> float:
        """Share of equal answers, over all attributes."""
        return fmean(self.equal.values()) if self.equal else 0.0

    def is_slow(self) -> bool:
        """Return whether it takes about as long as torch, or longer."""
        return self.share_of_time > MOST_TIME

    def disagreements(self) -> list[str]:
        """Return in what the network differs from torch's tower by more than is allowed."""
        found = []
        if self.cosine < LEAST_COSINE:
            found.append(f"features have a cosine of {self.cosine:.3f} (at least {LEAST_COSINE})")
        if self.equal_of_all < LEAST_EQUAL:
            found.append(f"{self.equal_of_all:.1%} of the answers are equal (at least {LEAST_EQUAL:.0%})")
        name, least = min(self.equal.items(), key=lambda entry: entry[1], default=("any attribute", 0.0))
        if least < LEAST_EQUAL_OF_ONE:
            found.append(f"{least:.1%} of those to {name} are (at least {LEAST_EQUAL_OF_ONE:.0%})")
        return found

    def objections(self) -> list[str]:
        """Return what speaks against the network; none if `auto` takes it."""
        if self.is_slow():
            return [f"it takes {self.share_of_time:.2f} of torch's time (at most {MOST_TIME})"]
        return self.disagreements()

    def comparison(self) -> str:
        """Say how the network compares with torch."""
        time = f"{self.milliseconds:.0f} instead of {self.torch_milliseconds:.0f} ms a crop"
        if not self.crops:
            return time
        return (
            f"over {self.crops} crops, features have a cosine of at least {self.cosine:.4f} and "
            f"{self.equal_of_all:.1%} of the answers are equal; {time}"
        )

    def text(self) -> str:
        """Say which tower is used and why, in one line."""
        name = f"OpenVINO in {self.precision}"
        if self.taken:
            return f"{name}: {self.comparison()}"
        return f"torch; {name} was not taken: {'; '.join(self.objections())} ({self.comparison()})"


def equal_answers(
    some: Sequence[Annotation], others: Sequence[Annotation], schema: AttributeSchema
) -> dict[str, float]:
    """Return the share of equal answers about the same crops, by attribute.

    Crops about which neither could answer are left out.
    """
    pairs = [
        (one.values, other.values)
        for one, other in zip(some, others, strict=True)
        if one.values or other.values
    ]
    return {
        name: sum(one.get(name) == other.get(name) for one, other in pairs) / len(pairs)
        for name in schema.names
        if pairs
    }
