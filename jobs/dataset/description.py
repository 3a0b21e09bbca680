"""What a data set has in it and what made its labels: `dataset.json`, and `README.md` for people."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from actors.attribute import Attribute
from actors.attributes import AttributeSchema
from jobs.dataset.crops import HF_NAMES
from jobs.dataset.final_persons import FinalFrame, FinalPerson

_NO_VALUE = "(no value)"
_ANNOTATORS = {"human": "people", "agreement": "agreement of the models"}


@dataclass(slots=True)
class Contents:
    """Counts of what was exported, by split.

    Attributes:
        frames: Frames.
        persons: Persons.
        not_persons: Detections in the frames that people said are none.
        dropped: Detections in the frames outside the region of interest.
        corrected_boxes: Persons whose box a person has drawn.
        values: How often each value occurs, by attribute and split.
        sources: How many labels are from each source, by attribute.
    """

    frames: Counter[str] = field(default_factory=Counter)
    persons: Counter[str] = field(default_factory=Counter)
    not_persons: int = 0
    dropped: int = 0
    corrected_boxes: int = 0
    values: defaultdict[str, defaultdict[str, Counter[str]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(Counter))
    )
    sources: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def add(self, split: str, frame: FinalFrame, persons: list[FinalPerson]) -> None:
        """Count a frame with the persons that belong to the data set."""
        self.frames[split] += 1
        self.persons[split] += len(persons)
        self.not_persons += frame.not_persons
        self.dropped += frame.dropped
        for person in persons:
            self.corrected_boxes += person.is_corrected
            for name, label in person.labels.items():
                self.values[name][split][value_name(label.value)] += 1
                self.sources[name][label.source or _NO_VALUE] += 1


def value_name(value: object) -> str:
    """Return a value as a key of JSON."""
    if value is None:
        return _NO_VALUE
    return value if isinstance(value, str) else json.dumps(value)


def class_weights(attribute: Attribute, counts: Mapping[str, int]) -> dict[str, float]:
    """Return the weight of each value that occurs, so that all have the same sum; the mean over persons is 1.

    Source: `class_weight="balanced"` of scikit-learn. An integer has no classes.

    Args:
        attribute: The attribute.
        counts: How often each value occurs in the training split.
    """
    if attribute.type == "integer":
        return {}
    names = [value_name(value) for value in attribute.values if value is not None]
    found = {name: counts[name] for name in names if counts.get(name)}
    total = sum(found.values())
    return {name: total / (len(found) * count) for name, count in found.items()}


def describe_attributes(contents: Contents, attributes: AttributeSchema) -> dict[str, Any]:
    """Return the counts, class weights and sources of each attribute."""
    described = {}
    for attribute in attributes:
        by_split = contents.values[attribute.name]
        described[attribute.name] = {
            "type": attribute.type,
            "description": attribute.description,
            "counts": {split: dict(counts.most_common()) for split, counts in sorted(by_split.items())},
            "class_weights": class_weights(attribute, by_split.get("train", {})),
            "sources": dict(contents.sources[attribute.name].most_common()),
        }
    return described


def card(facts: Mapping[str, Any]) -> str:
    """Return `README.md`: a card in the form of Hugging Face's, of the content of `dataset.json`."""
    return f"---\n{_front_matter(facts)}---\n{''.join(_sections(facts))}"


def _front_matter(facts: Mapping[str, Any]) -> str:
    tags = ["shopframe", "persons"]
    tasks = ["object-detection"] if facts["sample"] == "frame" else ["image-classification"]
    content: dict[str, Any] = {"pretty_name": "Persons in store-camera frames", "tags": tags}
    content["task_categories"] = tasks
    pattern = {"hf": "data/{}-*.parquet", "webdataset": "{}-*.tar"}.get(facts["format"])
    if pattern is not None:
        names = {
            s: HF_NAMES[s] if facts["format"] == "hf" else s
            for s, n in facts["splits"].items()
            if n["persons"]
        }
        files = [{"split": HF_NAMES[s], "path": pattern.format(name)} for s, name in names.items()]
        content["configs"] = [{"config_name": "default", "data_files": files}]
    return yaml.safe_dump(content, sort_keys=False)


def _sections(facts: Mapping[str, Any]) -> list[str]:
    splits = [
        f"| {name} | {one['share']:.0%} | {one['groups']:,} | {one['frames']:,} | {one['persons']:,} |\n"
        for name, one in facts["splits"].items()
    ]
    chosen = f" Persons were chosen by {', '.join(facts['conditions'])}." if facts["conditions"] else ""
    period = facts["split_by"]
    return [
        "\n# Persons in store-camera frames\n\n",
        f"Written by Shopframe {facts['shopframe']} on {facts['written_at']} from version "
        f"{facts['consolidated_version']} of `consolidated/` of {facts['output']}. One sample is one "
        f"{facts['sample']}.{chosen}\n",
        "\n## Splits\n\n| split | share wanted | groups | frames | persons |\n|---|---|---|---|---|\n",
        *splits,
        f"\nWhat one camera took within one {period} of UTC is one group and never divided; frames without "
        "a time are kept together by shard. A group's split follows from the hash of its name "
        f"(seed {facts['seed']}).\n",
        "\n## What made the labels\n\n",
        *_models(facts),
        f"\nPeople said of {facts['not_persons']:,} detections that they show no person: they are "
        f"left out. {facts['corrected_boxes']:,} boxes were drawn by people.{_dropped(facts)}\n",
        "\n| attribute | labels by source |\n|---|---|\n",
        *(f"| {name} | {_shares(one['sources'])} |\n" for name, one in facts["attributes"].items()),
        "\n## Values\n\nCounts in the training split, with class weights (`dataset.json` has all).\n\n"
        "| attribute | values |\n|---|---|\n",
        *(f"| {name} | {_values(one)} |\n" for name, one in facts["attributes"].items()),
        "\n## Limits\n\nApparent gender and age are guesses about appearance, not facts about people. Labels "
        "that no person has decided are answers of models, with their errors. Check what the law where you "
        "are says about using pictures of people.\n",
    ]


def _dropped(facts: Mapping[str, Any]) -> str:
    if facts["sample"] != "frame" or not facts["dropped"]:
        return ""
    return (
        f" {facts['dropped']:,} other detections in these frames are outside the region of interest: they "
        "have no box, although they may show persons."
    )


def _models(facts: Mapping[str, Any]) -> list[str]:
    lines = []
    detector = facts["detector"]
    if detector is not None:
        lines.append(
            f"- Boxes: {detector['weights']} (SHA-256 `{detector['sha256']}`, {detector['backend']}), as set "
            "in the last run.\n"
        )
    answered = [
        f"- {one['annotator']}: {one['model']}, version {one['model_version']}, prompt SHA-256 "
        f"`{one['prompt_sha256']}`: answers about {one['persons']:,} persons.\n"
        for one in facts["annotators"]
    ]
    return [*lines, *answered]


def _shares(sources: Mapping[str, int]) -> str:
    total = sum(sources.values()) or 1
    return ", ".join(
        f"{_ANNOTATORS.get(name, name)} {count / total:.1%} ({count:,})" for name, count in sources.items()
    )


def _values(one: Mapping[str, Any]) -> str:
    counts: Mapping[str, int] = one["counts"].get("train", {})
    listed = list(counts.items())[:20]
    weights = one["class_weights"]
    shown = [
        f"{_cell(name)} {count:,}" + (f" (weight {weights[name]:.3g})" if name in weights else "")
        for name, count in listed
    ]
    return ", ".join(shown) + (f" and {len(counts) - 20:,} other values" if len(counts) > 20 else "")


def _cell(text: str) -> str:
    """Return a text as a cell of a table shows it."""
    return "".join(f"\\{char}" if char in "\\|`*_<>[]" else char for char in text)
