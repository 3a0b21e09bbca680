"""What a run does again and why, as data and in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

from actors.gemini.backlog.listing import WaitingShard
from actors.gemini.settings import ANNOTATOR as GEMINI
from actors.gemini.settings import GeminiSettings
from jobs.run.changed_settings import Change
from jobs.run.plan import Cause, Plan
from jobs.run.words import counted, first_of

_NAMES = {"smolvlm": "SmolVLM", "gemini": "Gemini"}

_SHARDS: Mapping[Cause, str] = {
    "new": "new",
    "size": "changed in the input (other size)",
    "etag": "changed in the input (same size, other etag)",
    "failed": "failed before",
    "documents": "with documents to be written",
    "forced": "done again as requested",
    "missing": "not annotated by {stage} yet",
    "retry": "with answers of {stage} to be asked for again",
}

_AGAIN = {"detect": "to be detected again", "person_json": "with documents to be written again"}

_PERSONS: Mapping[str, str] = {
    "missing": "have no answer yet",
    "retry": "had no valid answer",
    "model": "have an answer of another model",
    "camera": "are of a camera that was not permitted before",
    "settings": "had an answer, but {why}",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a run asks an annotator about.

    Attributes:
        causes: Number of committed persons by the reason for which they are asked about: `missing`, `retry`,
            `model`, `camera` or `settings`. Some may have an answer in Gemini's journal, which is not asked
            for again.
        persons: Maximum number of these persons that this run asks about.
        requests: Number of requests for so many persons if none has to be repeated, or None if the annotator
            is a local model.
        detected: Number of shards that this run detects. It asks about their persons too.
        detected_persons: Number of persons that these shards had before, as far as they were committed.
        detected_requests: Number of requests for so many persons, or None if the annotator is a local model.
    """

    causes: Mapping[str, int]
    persons: int
    requests: int | None
    detected: int = 0
    detected_persons: int = 0
    detected_requests: int | None = None

    def __str__(self) -> str:
        parts = []
        if self.persons:
            requests = "" if self.requests is None else f" in {counted(self.requests, 'request')}"
            parts.append(f"at most {counted(self.persons, 'person')}{requests}")
        if self.detected:
            before = ""
            if self.detected_persons:
                requests = (
                    f" in {counted(self.detected_requests, 'request')}" if self.detected_requests else ""
                )
                before = f" (before, they had {self.detected_persons:,}{requests})"
            parts.append(f"the persons of {counted(self.detected, 'shard')} to be detected{before}")
        return " and ".join(parts)


@dataclass(slots=True)
class PlanReasons:
    """What a run does again and why.

    Attributes:
        shards: Number of shards in the input.
        skipped: Number of shards that have nothing to do.
        causes: Number of shards by cause and stage.
        changes: Settings that differ from the last run, by the stage that has to be done again.
        superseded: Ids of the committed shards that others with the same input replace.
        asked: What each enabled annotator is asked about.
    """

    shards: int
    skipped: int
    causes: Mapping[tuple[Cause, str | None], int] = field(default_factory=dict)
    changes: Mapping[str, Sequence[Change]] = field(default_factory=dict)
    superseded: Sequence[str] = ()
    asked: Mapping[str, Asked] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the values that `progress.json` shows."""
        return {
            "shards": self.shards,
            "skipped": self.skipped,
            "reasons": [
                {"cause": cause, "stage": stage, "shards": n} for (cause, stage), n in self.causes.items()
            ],
            "changed_settings": {
                stage: [asdict(change) for change in changes] for stage, changes in self.changes.items()
            },
            "superseded": len(self.superseded),
            "asked": {name: asdict(asked) for name, asked in self.asked.items()},
        }

    def line(self) -> str:
        """Return the line that a run prints at its start."""
        said = f"{counted(self.shards, 'shard')} in the input, {sum(self.causes.values()):,} to do"
        parts = [self._of_shards(key, n) for key, n in self.causes.items()]
        if self.superseded:
            parts.append(f"{counted(len(self.superseded), 'committed shard')} to be replaced by them")
        parts += [f"{_name(name)} is asked about {asked}" for name, asked in self._asks()]
        return f"{said}: {'; '.join(parts)}" if parts else said

    def lines(self) -> Iterator[str]:
        """Yield the lines that a dry run prints: one for each reason."""
        yield (
            f"a run would do {sum(self.causes.values()):,} of {counted(self.shards, 'shard')}, and skip "
            f"{self.skipped:,} with nothing to do"
        )
        yield from (f"- {self._of_shards(key, n)}" for key, n in self.causes.items())
        if self.superseded:
            yield (
                f"- {counted(len(self.superseded), 'committed shard')} to be replaced by them, which are "
                f"other parts of the same input: {first_of(self.superseded)}"
            )
        for name, asked in self._asks():
            why = ", ".join(f"{n:,} {self._of_persons(cause, name)}" for cause, n in asked.causes.items())
            yield f"- {_name(name)} would be asked about {asked}" + (f": {why}" if why else "")

    def _asks(self) -> Iterator[tuple[str, Asked]]:
        return ((name, asked) for name, asked in self.asked.items() if asked.persons or asked.detected)

    def _of_shards(self, key: tuple[Cause, str | None], shards: int) -> str:
        cause, stage = key
        if cause != "settings":
            return f"{shards:,} {_SHARDS[cause].format(stage=_name(str(stage)))}"
        what = _AGAIN.get(str(stage), f"to be annotated again by {_name(str(stage))}")
        return f"{shards:,} {what}, because {self._why(str(stage))}"

    def _of_persons(self, cause: str, annotator: str) -> str:
        return _PERSONS[cause].format(why=self._why(annotator))

    def _why(self, stage: str) -> str:
        changes = self.changes.get(stage)
        if changes is None:
            return "other settings applied in a run before the last"
        if not changes:
            return "something has changed that run.json doesn't tell"
        return f"settings changed: {', '.join(map(str, changes))}"


def _name(stage: str) -> str:
    return _NAMES.get(stage, stage)


def asked_of_gemini(waiting: Sequence[WaitingShard], settings: GeminiSettings) -> Asked:
    """Sum up what Gemini is asked about. `waiting` are the shards of its backlog."""
    causes = Counter[str]()
    for shard in waiting:
        causes.update(shard.causes)
    most = causes.total() if settings.max_persons is None else min(causes.total(), settings.max_persons)
    return Asked(dict(sorted(causes.items())), most, -(-most // settings.persons_per_request))


def plan_reasons(
    plan: Plan,
    annotators: Sequence[str],
    changes: Mapping[str, Sequence[Change]],
    waiting: Sequence[WaitingShard],
    settings: GeminiSettings,
) -> PlanReasons:
    """Sum up the reasons of a plan.

    Args:
        plan: The plan.
        annotators: The enabled annotators.
        changes: Settings that differ from the last run, by stage.
        waiting: The shards of Gemini's backlog.
        settings: The `gemini` settings.
    """
    causes = Counter((reason.cause, reason.stage) for reason in plan.reasons.values())
    detected = {task.shard.shard_id for task in plan.tasks if task.work == "detect"}
    had = sum(plan.reasons[shard_id].persons for shard_id in detected)
    asked = {}
    for name in annotators:
        detected_requests = None
        if name == GEMINI:
            detected_requests = -(-had // settings.persons_per_request)
            of = asked_of_gemini([shard for shard in waiting if shard.shard_id not in detected], settings)
        else:
            persons = Counter[str]()
            for reason in plan.reasons.values():
                if reason.stage == name:
                    persons[reason.cause] += reason.persons
            of = Asked(dict(sorted(persons.items())), persons.total(), None)
        asked[name] = Asked(of.causes, of.persons, of.requests, len(detected), had, detected_requests)
    again = {stage for cause, stage in causes if cause == "settings"}
    again |= {name for name, of in asked.items() if of.causes.get("settings")}
    order = get_args(Cause)
    return PlanReasons(
        shards=plan.shards,
        skipped=plan.skipped,
        causes=dict(sorted(causes.items(), key=lambda item: (order.index(item[0][0]), str(item[0][1])))),
        changes={stage: found for stage, found in changes.items() if stage in again},
        superseded=sorted(plan.superseded),
        asked=asked,
    )
