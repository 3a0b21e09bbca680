"""`run.json`: the settings, plan, models and packages of an output's last run."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
)

from actors.detect.int8_choice import Int8Choice
from actors.errors import ConfigError
from actors.fingerprint import question_of, reuse_of
from actors.gemini.question import Question, request_settings
from actors.settings_section import Section
from actors.smolvlm.tower_choice import TowerChoice
from actors.storage import layout
from actors.storage.object_store import ObjectStore
from jobs.run.former_defaults import complete

_SectionType = TypeVar("_SectionType", bound=Section)

_PACKAGES = (
    "ray",
    "torch",
    "torchvision",
    "transformers",
    "ultralytics-opencv-headless",
    "openvino",
    "nncf",
    "onnxruntime",
    "opencv-python-headless",
    "simplejpeg",
    "xgrammar",
    "google-genai",
    "pyarrow",
)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, protected_namespaces=())


class PlanCounts(_Part):
    """How many shards the input had, and how many of them the run had to do or could skip."""

    shards: int
    to_do: int = 0
    skipped: int = 0


class DetectorModel(_Part):
    """The detector. `demo` is true for the demo's model.

    `network` is the digest of the network in `models/` if it is used in int8, and `int8` says what was
    compared if int8 was tried for this output.
    """

    demo: bool
    weights: str
    sha256: str
    backend: str
    precision: str
    network: str | None = None
    int8: Int8Choice | None = None


class SmolVLMModel(_Part):
    """The local annotator. `version` is a commit on the hub or a hash of the model's files.

    `tower` is the digest of the network in `models/` that is its vision tower, if it isn't torch's, and
    `vision` says what was compared if one was tried for this output.
    """

    demo: bool
    model: str
    version: str
    dtype: str
    prompt_sha256: str
    tower: str | None = None
    vision: TowerChoice | None = None


class GeminiModel(_Part):
    """The second annotator. `key_id` is a digest of the API key.

    `earlier` maps fingerprints with which earlier versions recorded answers to the same question to the
    models that gave them.
    """

    model: str
    prompt_sha256: str
    key_id: str
    earlier: dict[str, str] = Field(default_factory=dict)


class Models(_Part):
    """The models of a run by stage, and the notice that is shown if one of them is the demo's."""

    demo: bool = False
    notice: str | None = None
    detector: DetectorModel | None = None
    smolvlm: SmolVLMModel | None = None
    gemini: GeminiModel | None = None

    @model_serializer(mode="wrap")
    def _without_absent_stages(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        return {key: value for key, value in content.items() if value is not None or key == "notice"}


class RunRecord(_Part):
    """The content of `run.json`.

    Attributes:
        shopframe: Version of this package.
        started_at: Start of the run, ISO 8601 in UTC.
        config: Every setting as it would be written in YAML, without secrets.
        fingerprints: Maps a stage to the hash of everything that its results depend on.
        gemini_requests: Settings with which earlier versions asked Gemini. They are kept because the
            fingerprints of those versions depend on them.
        kept_defaults: The settings whose former defaults the output keeps, or None in the record of a version
            that had no others.
        plan: Number of shards, and how many of them there were to do.
        models: The models that detect and annotate.
        packages: Versions of the packages that results depend on.
        python: Version of Python.
    """

    shopframe: str = ""
    started_at: str = ""
    config: dict[str, Any]
    fingerprints: dict[str, str] = Field(default_factory=dict)
    gemini_requests: tuple[dict[str, Any], ...] = ()
    kept_defaults: tuple[str, ...] | None = None
    plan: PlanCounts
    models: Models = Models()
    packages: dict[str, str] = Field(default_factory=dict)
    python: str = ""

    @field_validator("config")
    @classmethod
    def _is_complete(cls, config: dict[str, Any]) -> dict[str, Any]:
        return complete(config)

    @property
    def earlier_requests(self) -> tuple[dict[str, Any], ...]:
        """The settings with which earlier versions asked Gemini, up to and including this run."""
        request = request_settings(self.config.get("gemini", {}))
        if request is None or dict(request) in self.gemini_requests:
            return self.gemini_requests
        return (*self.gemini_requests, dict(request))

    @property
    def question(self) -> Question:
        """The question that Gemini was asked, and the models whose answers to it are accepted."""
        recorded, gemini = self.fingerprints.get("gemini", ""), self.models.gemini
        fingerprint, reuse = question_of(recorded), reuse_of(recorded)
        if gemini is None:
            return Question(fingerprint, reuse=reuse)
        # In the records of an earlier version, the fingerprint of the last run stands for its model.
        earlier = {fingerprint: gemini.model} | gemini.earlier
        reask = bool(self.config.get("gemini", {}).get("reask"))
        return Question(fingerprint, earlier, gemini.model if reask else None, reuse)

    def section(self, name: str, kind: type[_SectionType]) -> _SectionType:
        """Return a section of the run's settings.

        Raises:
            ConfigError: If the run was made by a version with different settings.
        """
        try:
            return kind.model_validate(self.config.get(name, {}))
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            key = ".".join([name, *map(str, problem["loc"])])
            raise ConfigError(
                f"{layout.RUN}: {key}: {problem['msg']}; the last run was made by shopframe "
                f"{self.shopframe}: run shopframe annotate once with this version"
            ) from error


def installed_packages() -> dict[str, str]:
    """Return the versions of the installed packages that results depend on."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def new_run_record(
    started_at: str,
    config: dict[str, Any],
    fingerprints: dict[str, str],
    plan: PlanCounts,
    models: Models,
    kept_defaults: tuple[str, ...] = (),
    before: RunRecord | None = None,
) -> RunRecord:
    """Return the record of a run that starts on this machine, after the run `before`."""
    return RunRecord(
        shopframe=version("shopframe"),
        started_at=started_at,
        config=config,
        fingerprints=fingerprints,
        gemini_requests=() if before is None else before.earlier_requests,
        kept_defaults=kept_defaults,
        plan=plan,
        models=models,
        packages=installed_packages(),
        python=platform.python_version(),
    )


def write_run(store: ObjectStore, record: RunRecord) -> None:
    """Replace `run.json`.

    Raises:
        OSError: If the store can't be written.
    """
    store.write(layout.RUN, json.dumps(record.model_dump(mode="json"), indent=2).encode())


def last_run(store: ObjectStore) -> RunRecord | None:
    """Return the last run of an output, or None if there was none.

    Raises:
        ConfigError: If `run.json` can't be parsed.
    """
    try:
        content = store.read(layout.RUN)
    except FileNotFoundError:
        return None
    try:
        return RunRecord.model_validate_json(content)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise ConfigError(
            f"{store.full(layout.RUN)}: not a valid run record: {'.'.join(map(str, problem['loc']))}: "
            f"{problem['msg']}; delete it and run shopframe annotate again"
        ) from error


def read_run(store: ObjectStore) -> RunRecord:
    """Return the last run of an output.

    Raises:
        ConfigError: If there was none, or `run.json` can't be parsed.
    """
    found = last_run(store)
    if found is None:
        raise ConfigError(f"{store.uri}: no run.json here; pass the same --output as to shopframe annotate")
    return found
