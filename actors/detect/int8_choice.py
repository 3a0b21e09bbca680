"""Whether an output's persons are detected in int8, and what was compared to decide it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from actors.detect.agreement import Agreement

MOST_TIME = 0.95
"""Share of the original network's time that the quantised one may take to count as faster."""


class Int8Choice(BaseModel):
    """The outcome of a trial of int8. The output keeps it, and its later runs follow it.

    Attributes:
        taken: Whether the quantised network is used.
        network: Its SHA-256 (see `network_sha256`).
        calibration_frames: Number of frames of the input that it was quantised on.
        agreement: How its persons agree with those of float32, over other frames.
        milliseconds: Median time of a frame in int8, without decoding.
        instead: Precision that would be used otherwise.
        instead_milliseconds: Median time of the same frames in that precision, in turns with int8.
        packages: Versions of the packages that quantised and ran the network.
    """

    model_config = ConfigDict(frozen=True)

    taken: bool
    network: str
    calibration_frames: int
    agreement: Agreement
    milliseconds: float
    instead: str
    instead_milliseconds: float
    packages: dict[str, str]

    @property
    def share_of_time(self) -> float:
        """Time of a frame in int8, as a share of that in the other precision."""
        return self.milliseconds / self.instead_milliseconds

    @property
    def is_faster(self) -> bool:
        """Whether int8 is faster on the machine where it was tried."""
        return self.share_of_time <= MOST_TIME

    def objections(self) -> list[str]:
        """Return what speaks against the network; none if `auto` takes it."""
        slow = f"it takes {self.share_of_time:.2f} of the time of {self.instead} (at most {MOST_TIME})"
        return [*self.agreement.objections(), *([] if self.is_faster else [slow])]

    def comparison(self) -> str:
        """Say what was compared, as a sentence about the quantised network."""
        found = self.agreement
        return (
            f"over {found.frames:,} frames, int8 finds {found.found:.1%} of the {found.persons:,} persons of "
            f"float32 and adds {found.added:.1%}; its scores differ by {found.score_difference:.3f}, its "
            f"AP50 is {found.ap50:.3f} and its AP50-95 {found.ap50_95:.3f} against float32, and it takes "
            f"{self.share_of_time:.2f} of the time of {self.instead}"
        )

    def text(self) -> str:
        """Say which precision is used and why, in one line."""
        if self.taken:
            return f"int8: {self.comparison()}"
        return f"{self.instead}; int8 was not taken: {'; '.join(self.objections())} ({self.comparison()})"
