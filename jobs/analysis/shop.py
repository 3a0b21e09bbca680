"""The zones file: what a user knows about the shop, in YAML."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import time
from pathlib import Path
from typing import Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, PositiveFloat, ValidationError, field_validator, model_validator

from actors.detect.roi import Region
from actors.errors import ConfigError
from actors.settings_section import Section
from jobs.yaml_text import InvalidYamlError, parse_yaml

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]


class ShopZone(Region):
    """A part of the shop as one camera sees it. Zones with the same name are parts of one zone."""

    name: str = Field(min_length=1, description="Name of the zone, such as the department.")
    kind: Literal["area", "till", "staff"] = Field(
        "area",
        description="`till` has a queue, and the people in a `staff` zone are no customers; they are in no "
        "other figure.",
    )


class Hours(Section):
    """A time of the day at which the shop is open."""

    opens: time = Field(description="Local time from which on the shop is open, such as '09:00'.")
    closes: time = Field(description="Local time at which it closes; '00:00' is the end of the day.")

    @model_validator(mode="after")
    def _is_within_a_day(self) -> Self:
        if self.opens >= self.closes and self.closes != time(0):
            raise ValueError(
                f"closes ({self.closes:%H:%M}) is not after opens ({self.opens:%H:%M}); hours beyond "
                "midnight are two entries, one for each day"
            )
        return self


class VisitorSettings(Section):
    """What a user knows about the number of visitors."""

    dwell_s: tuple[PositiveFloat, PositiveFloat] | None = Field(
        None,
        description="How long a visitor is in view of the cameras on average, in seconds: from and to.",
    )
    door_count: int | None = Field(None, ge=0, description="Visitors that a door counter has counted.")
    door_error: float = Field(0.05, ge=0, lt=1, description="Share by which the door counter may be wrong.")

    @field_validator("dwell_s")
    @classmethod
    def _is_a_range(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[0] > value[1]:
            raise ValueError(f"dwell_s is from {value[0]:g} to {value[1]:g}; write the shorter time first")
        return value


class Shop(Section):
    """What a user knows about the shop."""

    timezone: str = Field(
        "UTC",
        description="Time zone of the shop, such as Europe/Berlin. A file that doesn't say it, or no file, "
        "stands for `input.timezone` of the last run.",
    )
    zones: tuple[ShopZone, ...] = Field((), description="Parts of the shop.")
    opening_hours: dict[Weekday, tuple[Hours, ...]] = Field(
        default_factory=dict,
        description="Hours by weekday. Days that aren't named are closed; without any, it is always open.",
    )
    visitors: VisitorSettings = Field(VisitorSettings(), description="What is known of their number.")
    same_place: tuple[tuple[str, ...], ...] = Field(
        (),
        description="Groups of cameras that see the same place. Where figures are summed over cameras, only "
        "the first one of a group counts.",
    )

    @field_validator("timezone")
    @classmethod
    def _is_known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(
                f"{value} is no time zone; use a name of the IANA list, such as Europe/Berlin"
            ) from None
        return value

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        kinds: dict[str, str] = {}
        for zone in self.zones:
            if kinds.setdefault(zone.name, zone.kind) != zone.kind:
                raise ValueError(f"zones: {zone.name} is {kinds[zone.name]} and {zone.kind}; name them apart")
        seen: set[str] = set()
        for group in self.same_place:
            twice = seen & set(group)
            if twice or len(set(group)) < len(group):
                raise ValueError(f"same_place: {min(twice or group)} is there twice; name each camera once")
            seen |= set(group)
        return self

    def in_zone(self, timezone: str) -> Shop:
        """Return the shop in a time zone, unless the file has named one."""
        return self if "timezone" in self.model_fields_set else self.model_copy(update={"timezone": timezone})

    def counted(self, cameras: Sequence[str]) -> list[str]:
        """Return the cameras that count in a sum over cameras: of those that see one place, the first one."""
        present = {group: [camera for camera in group if camera in cameras] for group in self.same_place}
        left_out = {camera for some in present.values() for camera in some[1:]}
        return [camera for camera in cameras if camera not in left_out]


def load_shop(path: str | None) -> Shop:
    """Read a zones file; without one, nothing is known.

    Raises:
        ConfigError: It can't be read, or a key or value in it is wrong.
    """
    if path is None:
        return Shop()
    try:
        content = parse_yaml(Path(path).read_text(encoding="utf-8"))
    except InvalidYamlError as error:
        raise ConfigError(f"--zones {path}{error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--zones {path}: can't be read: {error}") from error
    try:
        return Shop.model_validate({} if content is None else content)
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_url=False):
            key = ".".join(map(str, problem["loc"]))
            message = problem["msg"].removeprefix("Value error, ")
            if problem["type"] == "extra_forbidden":
                message = "unknown key"
            lines.append(": ".join(part for part in (f"--zones {path}", key, message) if part))
        raise ConfigError("\n".join(lines)) from error
