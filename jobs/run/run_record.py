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
    model_serializer,
)

from actors.errors import ConfigError
from actors.settings_section import Section
from actors.storage import layout
from actors.storage.object_store import ObjectStore

_SectionType = TypeVar("_SectionType", bound=Section)

_PACKAGES = (
    "ray",
    "torch",
    "torchvision",
    "transformers",
    "ultralytics-opencv-headless",
    "openvino",
    "onnxruntime",
    "opencv-python-headless",
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
    """The detector. `demo` is true for the demo's model."""

    demo: bool
    weights: str
    sha256: str
    backend: str
    precision: str


class SmolVLMModel(_Part):
    """The local annotator. `version` is a commit on the hub or a hash of the model's files."""

    demo: bool
    model: str
    version: str
    dtype: str
    prompt_sha256: str


class GeminiModel(_Part):
    """The second annotator. `key_id` is a digest of the API key."""

    model: str
    prompt_sha256: str
    key_id: str


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
        plan: Number of shards, and how many of them there were to do.
        models: The models that detect and annotate.
        packages: Versions of the packages that results depend on.
        python: Version of Python.
    """

    shopframe: str = ""
    started_at: str = ""
    config: dict[str, Any]
    fingerprints: dict[str, str] = Field(default_factory=dict)
    plan: PlanCounts
    models: Models = Models()
    packages: dict[str, str] = Field(default_factory=dict)
    python: str = ""

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
    started_at: str, config: dict[str, Any], fingerprints: dict[str, str], plan: PlanCounts, models: Models
) -> RunRecord:
    """Return the record of a run that starts on this machine."""
    return RunRecord(
        shopframe=version("shopframe"),
        started_at=started_at,
        config=config,
        fingerprints=fingerprints,
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
