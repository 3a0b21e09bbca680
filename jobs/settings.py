"""Load YAML files and command-line overrides into one validated, frozen `Settings`.

The source of each value is recorded.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from actors.attribute_settings import SchemaSettings
from actors.commit.settings import OutputSettings
from actors.corrections.settings import ConsensusSettings
from actors.detect.crops import CropSettings
from actors.detect.roi import RoiSettings
from actors.detect.settings import DetectorSettings
from actors.errors import ConfigError
from actors.gemini.settings import GeminiSettings
from actors.read.settings import InputSettings
from actors.reuse.settings import ReuseSettings
from actors.settings_section import Section
from actors.smolvlm.settings import SmolVLMSettings
from actors.storage.settings import StorageSettings
from actors.storage.uris import absolute_uri
from jobs.analysis_settings import AnalyzeSettings
from jobs.ray_settings import RaySettings
from jobs.yaml_text import InvalidYamlError, parse_yaml

CONF = Path(str(files("conf")))
_DEFAULT = CONF / "default.yaml"


class RunSettings(Section):
    """When to give up on a shard or on the run."""

    stall_warning_s: float = Field(
        600,
        gt=0,
        description="Seconds without a new frame, person, answer or commit after which the run reports what "
        "is stuck.",
    )
    stall_fail_s: float = Field(
        3600,
        gt=0,
        description="Seconds without a new frame, person, answer or commit after which the run stops with "
        "exit code 3.",
    )
    max_failed_frames: float = Field(
        0.9,
        ge=0,
        le=1,
        description="Share of a shard's frames that may fail before the shard fails. A shard of fewer than "
        "10 frames never fails by its share: its bad frames are rows.",
    )
    max_attempts: int = Field(
        3,
        ge=1,
        le=20,
        description="How many workers a shard may kill in one run before the shard fails. Workers that die "
        "with their node don't count.",
    )
    max_infrastructure_retries: int = Field(
        2,
        ge=0,
        le=20,
        description="How many times a run tries a shard again after a fault that isn't in the input, such as "
        "an error of the store or a GPU. After that the shard is postponed to the next run.",
    )
    infrastructure_pause_s: float = Field(
        10,
        ge=0,
        description="Seconds before shards are tried again. The pause doubles each time, up to five minutes.",
    )
    max_worker_starts: int = Field(
        3,
        ge=1,
        le=100,
        description="How many workers in a row may fail to start, for example because a model can't be "
        "loaded, before the run leaves their nodes, or stops if no node is left.",
    )

    @model_validator(mode="after")
    def _warn_before_failing(self) -> Self:
        if self.stall_fail_s <= self.stall_warning_s:
            raise ValueError("stall_fail_s must be longer than stall_warning_s")
        return self


class MetricsSettings(Section):
    """Where Prometheus finds the metrics of a run."""

    on_cluster: bool = Field(
        True,
        description="Whether a run on a Ray cluster reports its metrics through Ray, whose nodes export them "
        "together with Ray's own.",
    )
    textfile: str | None = Field(
        None,
        description="File that the run keeps up to date with its metrics, for the textfile collector of "
        "node_exporter (its name ends in .prom). Each run needs a file of its own.",
    )
    port: int | None = Field(
        None, ge=0, le=65535, description="Port at which the run answers Prometheus with its metrics."
    )
    host: str = Field("127.0.0.1", description="Address at which it answers.")


class Settings(Section):
    """The whole configuration, with one section for each part of a run."""

    input: InputSettings = InputSettings()
    output: OutputSettings = OutputSettings()
    detector: DetectorSettings = DetectorSettings()
    roi: RoiSettings = RoiSettings()
    crops: CropSettings = CropSettings()
    attributes: SchemaSettings = Field(default_factory=SchemaSettings, alias="schema")
    annotate: ReuseSettings = ReuseSettings()
    smolvlm: SmolVLMSettings = SmolVLMSettings()
    gemini: GeminiSettings = GeminiSettings()
    ray: RaySettings = RaySettings()
    consensus: ConsensusSettings = ConsensusSettings()
    storage: StorageSettings = StorageSettings()
    run: RunSettings = RunSettings()
    metrics: MetricsSettings = MetricsSettings()
    analyze: AnalyzeSettings = AnalyzeSettings()

    @model_validator(mode="after")
    def _output_is_not_input(self) -> Self:
        source, target = self.input.uri, self.output.uri
        if source and target and _folder(target).startswith(_folder(source)):
            raise ValueError(
                f"output.uri ({target}) is input.uri or lies inside it, so results would be read as input; "
                "choose an output outside the input"
            )
        return self

    def as_dict(self) -> dict[str, Any]:
        """Return the effective values as they would be written in YAML."""
        return self.model_dump(mode="json", by_alias=True)


def _folder(uri: str) -> str:
    return f"{absolute_uri(uri).rstrip('/')}/"


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """The settings, and where they came from.

    Attributes:
        settings: The validated settings.
        sources: For every key that was set, the file or option that set it last.
        given: The keys that were set by anything but the base `conf/default.yaml`.
    """

    settings: Settings
    sources: dict[str, str]
    given: frozenset[str] = frozenset()

    def is_given(self, path: str) -> bool:
        """Return whether a key or a part of it was set by anything but the base `conf/default.yaml`."""
        return any(key == path or key.startswith(f"{path}.") for key in self.given)


def load_settings(
    config: Sequence[str] = (),
    overrides: Sequence[str] = (),
    options: Mapping[str, tuple[str, Any]] | None = None,
    base: tuple[str, dict[str, Any]] | None = None,
) -> LoadedSettings:
    """Merge `conf/default.yaml`, `base`, the files, the `--set` overrides and named options, in this order.

    Mappings are merged key by key. Any other value, including a list, replaces the earlier one.

    Args:
        config: YAML files, where later files override earlier ones. A bare name that isn't a file is looked
            up among the shipped files.
        overrides: Strings of the form "key.path=value", with the value in YAML.
        options: Maps a key path to the name of a command-line option and its value. None values are ignored.
        base: The name of a source and its configuration, for example that of an earlier run.

    Raises:
        ConfigError: If a setting is wrong. The message names the file or option, the key, the problem and
            the remedy.
    """
    merged: dict[str, Any] = {}
    sources: dict[str, str] = {}
    _merge(merged, _defaults(), sources, str(_DEFAULT))
    over: dict[str, Any] = {}
    given: dict[str, str] = {}
    for source, content in _layers(config, overrides, options or {}, base):
        _merge(merged, content, sources, source)
        _merge(over, content, given, source)
    try:
        return LoadedSettings(Settings.model_validate(merged), sources, frozenset(given))
    except ValidationError as error:
        raise ConfigError(_explain(error, sources, given)) from None


def _layers(
    config: Sequence[str],
    overrides: Sequence[str],
    options: Mapping[str, tuple[str, Any]],
    base: tuple[str, dict[str, Any]] | None,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the content of everything that lies over `conf/default.yaml`, in this order."""
    if base is not None:
        yield base
    for path in map(_find_config, config):
        yield str(path), _read_yaml(path)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {override}: write it as key.path=value")
        yield f"--set {key.strip()}", _nest(key.strip(), _parse_value(override, key.strip(), text))
    for key, (option, value) in options.items():
        if value is not None:
            yield option, _nest(key, value)


def describe(loaded: LoadedSettings) -> Iterator[tuple[str, Any, str, str]]:
    """Yield the key path, the effective value, its source and the description of every setting."""
    for name, field in Settings.model_fields.items():
        section = field.alias or name
        values = getattr(loaded.settings, name)
        for key, described in type(values).model_fields.items():
            path = f"{section}.{key}"
            value = values.model_dump(mode="json")[key]
            given = [s for k, s in loaded.sources.items() if k == path or k.startswith(path + ".")]
            yield path, value, ", ".join(dict.fromkeys(given)) or "built in", described.description or ""


def _find_config(name: str) -> Path:
    """Return the file at this path. A bare name is also looked up among the shipped files."""
    candidates = [Path(name)]
    if Path(name).name == name:
        candidates += [CONF / name, CONF / f"{name}.yaml"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    shipped = ", ".join(sorted(p.name for p in CONF.glob("*.yaml")))
    raise ConfigError(
        f"--config {name}: no such file; the shipped files are used by their bare names: {shipped}"
    )


@cache
def _defaults() -> Mapping[str, Any]:
    """Return the content of `conf/default.yaml`, which takes a tenth of a second to parse."""
    return _read_yaml(_DEFAULT)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except InvalidYamlError as error:
        raise ConfigError(f"{path}{error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds a {type(content).__name__}; write sections with keys")
    return content


def _parse_value(override: str, path: str, text: str) -> Any:
    try:
        value = parse_yaml(text)
    except InvalidYamlError as error:
        if _is_text(path):
            return text
        raise ConfigError(f"--set {override}: the value is not valid YAML") from error
    # Braces of a pattern are a mapping in YAML.
    return text if isinstance(value, dict) and _is_text(path) else value


def _is_text(path: str) -> bool:
    """Return whether the setting with this path is text."""
    model: Any = Settings
    for part in path.split("."):
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return False
        found = {f.alias or n: f for n, f in model.model_fields.items()}.get(part)
        model = None if found is None else found.annotation
    return model in (str, str | None)


def _nest(path: str, value: Any) -> dict[str, Any]:
    for key in reversed(path.split(".")):
        value = {key: value}
    return dict(value)


def _merge(
    base: dict[str, Any], over: Mapping[str, Any], sources: dict[str, str], source: str, prefix: str = ""
) -> None:
    for key, value in over.items():
        path = f"{prefix}{key}"
        replaced = base.get(key)
        if isinstance(value, Mapping) and isinstance(replaced, dict):
            _merge(replaced, value, sources, source, f"{path}.")
            continue
        base[key] = value if not isinstance(value, Mapping) else {}
        if isinstance(replaced, dict):
            for stale in [k for k in sources if k.startswith(f"{path}.")]:
                del sources[stale]
        sources[path] = source
        if isinstance(value, Mapping):
            _merge(base[key], value, sources, source, f"{path}.")


def _explain(error: ValidationError, sources: Mapping[str, str], given: Mapping[str, str]) -> str:
    lines = []
    for problem in error.errors(include_url=False, include_context=False):
        location = [str(part) for part in problem["loc"]]
        path = ".".join(location)
        source = _source_of(location, sources, given)
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = "unknown key" + _suggestion(location)
        elif problem["type"] != "value_error" and not isinstance(problem["input"], dict):
            message = f"{message} (it is {problem['input']!r})"
        where = "" if source.endswith(f" {path}") else path
        lines.append(": ".join(part for part in (source, where, message) if part))
    return "\n".join(lines)


def _source_of(location: Sequence[str], sources: Mapping[str, str], given: Mapping[str, str]) -> str:
    """Return the source of a key. If a whole section is wrong, that is what was set in it."""
    within = [source for key, source in given.items() if key.startswith(f"{'.'.join(location)}.")]
    if within:
        return ", ".join(dict.fromkeys(within))
    for length in range(len(location), 0, -1):
        found = sources.get(".".join(location[:length]))
        if found:
            return found
    return ""


def _suggestion(location: Sequence[str]) -> str:
    model: type[BaseModel] = Settings
    for part in location[:-1]:
        named = {f.alias or n: f for n, f in model.model_fields.items()}
        annotation = named[part].annotation if part in named else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return ""
        model = annotation
    known = [f.alias or n for n, f in model.model_fields.items()]
    close = difflib.get_close_matches(location[-1], known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known keys: {', '.join(known)}"
