"""Read the camera and the time of a frame from its path, by the pattern in `input.key_pattern`.

A readable pattern consists of text, `*` (anything within a folder's or file's name), `**/` (any number of
folders), `{camera}`, and `{captured_at}` with directives of `strptime`. A pattern that contains `(?P<` is a
regular expression with the groups `camera` and `captured_at`. Both describe the end of the path.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from string import Formatter

from actors.read.file_names import IMAGE_EXTENSIONS, UNREAD_IMAGE_EXTENSIONS, extension
from actors.read.local_time import in_utc

_REGEX_MARK = "(?P<"
_FLAGS = re.compile(r"\(\?[a-zA-Z]+\)")

_FIELDS = ("camera", "captured_at")

_DIRECTIVES: Mapping[str, str] = {
    "Y": r"[0-9]{4}",
    "y": r"[0-9]{2}",
    "m": r"[0-9]{2}",
    "d": r"[0-9]{2}",
    "j": r"[0-9]{3}",
    "b": r"[A-Za-z]{3}",
    "B": r"[A-Za-z]+",
    "H": r"[0-9]{2}",
    "I": r"[0-9]{2}",
    "p": r"[AaPp][Mm]",
    "M": r"[0-9]{2}",
    "S": r"[0-9]{2}",
    "f": r"[0-9]{1,6}",
    "z": r"Z|[+-][0-9]{2}:?[0-9]{2}",
    "s": r"[0-9]{9,10}",
}
"""The directives of `strptime` that a pattern may have, with the text that each reads; `%s` is the number of
seconds since 1970."""

_DATES = tuple(map(frozenset, ("Ymd", "ymd", "Ybd", "ybd", "YBd", "yBd", "Yj", "yj", "s")))
"""Sets of directives that give a whole date."""

_FREE_TIME = r"[0-9](?:[-0-9T_:.+Z ]*[0-9Z])?"
"""Text of a time without directives."""

_DIGITS = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S", 17: "%Y%m%d%H%M%S%f", 20: "%Y%m%d%H%M%S%f"}
"""Formats of times that are written in digits, by the number of digits."""


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """The camera and the time that a path names. `note` says what is doubtful about the time."""

    camera: str | None = None
    captured_at: datetime | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class KeyPattern:
    """A pattern, compiled.

    Attributes:
        regex: Regular expression for a whole path, whose groups `camera...` have the camera.
        cameras: Names of the groups of the camera, whose texts are joined by "/".
        directives: The directive of `strptime` for each group `time0`, `time1` and so on.
        free_time: Name of the group with a time without directives, or None.
    """

    regex: re.Pattern[str]
    cameras: tuple[str, ...]
    directives: tuple[str, ...]
    free_time: str | None

    @property
    def has_camera(self) -> bool:
        """Whether the pattern reads a camera."""
        return bool(self.cameras)

    @property
    def has_time(self) -> bool:
        """Whether the pattern reads a time."""
        return bool(self.directives) or self.free_time is not None

    def read(self, path: str, zone: str) -> KeyFacts | None:
        """Return what the path names, or None if it doesn't match the pattern or its time is not a time.

        Args:
            path: Path of an image, or of a video. The extension of an image may be missing in the pattern.
            zone: IANA name of the time zone of times that name none.
        """
        match = self._match(path)
        if match is None:
            return None
        camera = "/".join(text for group in self.cameras if (text := match[group])) or None
        try:
            time = self._time(match)
            if time is None:
                return KeyFacts(camera)
            moment, note = in_utc(time, zone)
        except (ValueError, OverflowError):
            return None
        return KeyFacts(camera, moment, note)

    def _match(self, path: str) -> re.Match[str] | None:
        suffix = extension(path)
        if suffix in IMAGE_EXTENSIONS | UNREAD_IMAGE_EXTENSIONS:
            short = self.regex.fullmatch(path[: len(path) - len(suffix)])
            if short is not None:
                return short
        return self.regex.fullmatch(path)

    def _time(self, match: re.Match[str]) -> datetime | None:
        """Return the time. It has no time zone if the path names none. Raises ValueError if it is no time."""
        if self.free_time is not None:
            text = match[self.free_time]
            return None if text is None else _free_time(text)
        if not self.directives:
            return None
        texts = {name: match[f"time{index}"] for index, name in enumerate(self.directives)}
        if (seconds := texts.pop("s", None)) is not None:
            fraction = texts.get("f", "0")
            return _since_1970(int(seconds), int(fraction.ljust(6, "0")))
        return datetime.strptime(" ".join(texts.values()), " ".join(f"%{name}" for name in texts))


@lru_cache(maxsize=64)
def compile_pattern(text: str) -> KeyPattern:
    """Compile the text of a pattern.

    Raises:
        ValueError: It is no pattern. The message says what is wrong, and the remedy.
    """
    if _REGEX_MARK in text:
        return _from_regex(text)
    tokens = list(_tokens(text))
    cameras = tuple(f"camera{i}" for i in range(sum(kind == "camera" for kind, _ in tokens)))
    directives = tuple(value for kind, value in tokens if kind == "directive")
    free = sum(kind == "time" for kind, _ in tokens)
    if not (cameras or directives or free):
        raise ValueError(
            f"{text!r} has neither {{camera}} nor {{captured_at:...}}; write a pattern such as "
            "{camera}/{captured_at:%Y%m%d_%H%M%S}*.jpg, or a regular expression with (?P<camera>...)"
        )
    _check_time(directives, free)
    _check_ends(tokens)
    return KeyPattern(
        regex=re.compile(f"(?s:(?:.*/)?){_body(tokens)}"),
        cameras=cameras,
        directives=directives,
        free_time="time" if free else None,
    )


def _from_regex(text: str) -> KeyPattern:
    flags = _FLAGS.match(text)
    body = text[flags.end() :] if flags else text
    try:
        # The pattern describes the end of a path, so its beginning is that of a folder's or file's name.
        regex = re.compile(f"{flags[0] if flags else ''}(?:.*/)?(?:{body.removeprefix('^')})")
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from error
    unknown = sorted(regex.groupindex.keys() - set(_FIELDS))
    if unknown:
        raise ValueError(f"the group {unknown[0]!r} is unknown; the groups are camera and captured_at")
    has_time = "captured_at" in regex.groupindex
    cameras = ("camera",) if "camera" in regex.groupindex else ()
    return KeyPattern(regex, cameras, (), "captured_at" if has_time else None)


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """Yield the parts of a readable pattern as kind and value.

    The kinds are text, any (`*`), folders (`**` with its slash), camera, time, and directive. Raises
    ValueError.
    """
    try:
        parsed = list(Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}; write {{{{ and }}}} for braces that are text") from error
    for literal, name, spec, conversion in parsed:
        yield from _literal_tokens(literal)
        if name is None:
            continue
        if name not in _FIELDS or conversion is not None:
            raise ValueError(
                f"{{{name}}} is unknown; the fields are {{camera}} and {{captured_at:%Y%m%d_%H%M%S}}, and * "
                "stands for anything else"
            )
        if name == "camera":
            if spec:
                raise ValueError("{camera} takes no format; write {camera}")
            yield "camera", ""
        elif not spec:
            yield "time", ""
        else:
            yield from _time_tokens(spec)


def _literal_tokens(literal: str) -> Iterator[tuple[str, str]]:
    for part in re.split(r"(\*\*/|\*+)", literal):
        if part == "**/":
            yield "folders", part
        elif part.startswith("*"):
            yield "any", part
        elif part:
            yield "text", part


def _time_tokens(spec: str) -> Iterator[tuple[str, str]]:
    for part in re.split(r"(%.?)", spec, flags=re.DOTALL):
        if part == "%%":
            yield "text", "%"
        elif part.startswith("%"):
            if part[1:] not in _DIRECTIVES:
                known = " ".join(f"%{name}" for name in _DIRECTIVES)
                raise ValueError(f"{part} in {{captured_at:{spec}}} is unknown; known are {known}")
            yield "directive", part[1:]
        else:
            yield from _literal_tokens(part)


def _check_time(directives: tuple[str, ...], free: int) -> None:
    twice = next((name for name in directives if directives.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"%{twice} occurs twice; write * for one of them")
    if free > 1 or (free and directives):
        raise ValueError("{captured_at} without a format can't be combined with another {captured_at}")
    if not directives:
        return
    given = set(directives)
    if not any(date <= given for date in _DATES):
        raise ValueError(
            f"{{captured_at}} has no whole date, only {' '.join(f'%{name}' for name in directives)}; give "
            "year, month and day, for example %Y%m%d, or %s for seconds since 1970"
        )
    if "s" in given and given - {"s", "f"}:
        raise ValueError("%s is a whole time; only %f (fractions of a second) can follow it")
    if "I" in given and "p" not in given:
        raise ValueError("%I is an hour of 12 and needs %p (AM or PM); write %H for an hour of 24")
    form = " ".join(f"%{name}" for name in directives if name != "s")
    try:
        # `strptime` refuses some combinations of directives, such as an hour of both kinds.
        datetime.strptime(datetime(2024, 5, 1, tzinfo=UTC).strftime(form), form)
    except (ValueError, re.error) as error:
        raise ValueError(f"{{captured_at}} can't be read: {error}") from error


def _check_ends(tokens: list[tuple[str, str]]) -> None:
    """Refuse a camera next to something that has no end either, and any number of folders without a start."""
    if any(value.startswith("**") for _, value in tokens) and tokens[0][0] != "text":
        raise ValueError(
            "** stands for any number of folders, so nothing says where they start; begin the pattern with "
            "the folder above, as in archive/{camera}/**/*.jpg"
        )
    for (kind, _), (following, _) in pairwise(tokens):
        if {kind, following} in ({"camera"}, {"camera", "any"}):
            other = "{camera}" if kind == following else "*"
            raise ValueError(
                f"{{camera}} stands next to {other}, so nothing says where it ends; write the text between"
            )


def _body(tokens: list[tuple[str, str]]) -> str:
    parts = []
    cameras = times = 0
    for kind, value in tokens:
        if kind == "text":
            parts.append(re.escape(value))
        elif kind == "any":
            parts.append("[^/]*" if value == "*" else ".*")
        elif kind == "folders":
            parts.append("(?:.*/)?")
        elif kind == "camera":
            parts.append(f"(?P<camera{cameras}>[^/]+?)")
            cameras += 1
        elif kind == "time":
            parts.append(f"(?P<time>{_FREE_TIME})")
        else:
            parts.append(f"(?P<time{times}>{_DIRECTIVES[value]})")
            times += 1
    return "".join(parts)


def _free_time(text: str) -> datetime:
    """Return a time that is written without a format.

    It is ISO 8601, seconds (10 digits) or milliseconds (13 digits) since 1970, or the digits from the year on
    with any separators.

    Raises:
        ValueError: It is none of these.
    """
    if text.isdecimal() and len(text) in (10, 13):
        return _since_1970(int(text[:10]), int(text[10:].ljust(6, "0")))
    digits = re.sub(r"[-_/:. T]", "", text)
    if digits.isdecimal() and len(digits) in _DIGITS:
        # First, because ISO 8601 reads the 15 of 2024-05-01_10-15 as an offset from UTC.
        return datetime.strptime(digits, _DIGITS[len(digits)])
    if digits == text:
        raise ValueError(f"{text!r} is not a time")
    return datetime.fromisoformat(text)


def _since_1970(seconds: int, microseconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=microseconds)
