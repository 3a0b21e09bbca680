"""Settings: how files, overrides and options are merged, and what the shipped default contains."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import yaml
from pydantic import BaseModel

from actors.errors import ConfigError
from jobs.settings import CONF, Settings, describe, load_settings


def test_later_files_lie_over_earlier_ones_and_overrides_over_all(tmp_path):
    (tmp_path / "one.yaml").write_text("roi:\n  dynamic: {ratio: 0.3}\ndetector: {iou: 0.5}\n")
    (tmp_path / "two.yaml").write_text("roi: {dynamic: {ratio: 0.4}}\n")
    files = [str(tmp_path / name) for name in ("one.yaml", "two.yaml")]
    options = {"input.uri": ("--input", "in"), "output.uri": ("--output", None)}
    loaded = load_settings(files, ["detector.confidence=0.1"], options)
    settings = loaded.settings
    assert settings.roi.dynamic.ratio == 0.4
    assert settings.roi.dynamic.enabled is True
    assert (settings.detector.iou, settings.detector.confidence) == (0.5, 0.1)
    assert (settings.input.uri, settings.output.uri) == ("in", None)
    assert loaded.sources["roi.dynamic.ratio"] == files[1]
    assert loaded.sources["detector.iou"] == files[0]
    assert loaded.sources["detector.confidence"] == "--set detector.confidence"
    assert loaded.sources["input.uri"] == "--input"
    assert loaded.sources["crops.padding"] == str(CONF / "default.yaml")


def test_every_setting_is_described_with_its_value_and_source():
    described = {path: (value, source, meaning) for path, value, source, meaning in describe(load_settings())}
    assert described["crops.padding"][0] == Settings().crops.padding
    assert all(source and meaning for _, source, meaning in described.values())


def test_a_list_replaces_a_list_and_a_null_drops_an_attribute():
    loaded = load_settings((), ["schema.attributes.gender.values=[a, b]", "schema.attributes.hood=null"])
    attributes = loaded.settings.attributes.attributes
    assert attributes["gender"].values == ("a", "b")
    assert attributes["hood"] is None


def test_a_shipped_file_is_found_by_its_bare_name_alone(tmp_path):
    for name in ("demo.yaml", "demo"):
        assert load_settings([name]).sources["smolvlm.model"] == str(CONF / "demo.yaml")
    for name in (str(tmp_path / "demo.yaml"), "wrong/dir/demo.yaml", "./demo"):
        with pytest.raises(ConfigError, match=f"--config {name}: no such file"):
            load_settings([name])


@pytest.mark.parametrize("value", ["none", "off", "'off'", "false"])
def test_documents_are_turned_off_by_none_and_by_what_yaml_makes_of_off(value):
    assert load_settings((), [f"output.person_json={value}"]).settings.output.person_json == "none"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("detector.wieghts=x", "detector.wieghts: unknown key; did you mean weights?"),
        ("roi.dynamic.ration=1", "roi.dynamic.ration: unknown key; did you mean ratio?"),
        ("smolvml.enabled=false", "smolvml: unknown key; did you mean smolvlm?"),
        ("crops.zzzz=1", "known keys: padding"),
        ("roi.max_persons=many", "roi.max_persons"),
        ("crops.padding=[", "not valid YAML"),
        ("=1", "write it as key.path=value"),
    ],
)
def test_a_mistake_names_its_option_its_key_and_the_remedy(override, said):
    with pytest.raises(ConfigError) as raised:
        load_settings((), [override])
    assert said in str(raised.value)
    assert "--set" in str(raised.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: [", "not valid YAML"),
        ("- 1\n", "holds a list"),
        ("rio: {}\n", "did you mean roi"),
    ],
)
def test_a_broken_file_is_named(tmp_path, content, said):
    path = tmp_path / "broken.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=said) as raised:
        load_settings([str(path)])
    assert str(path) in str(raised.value)


def test_an_empty_file_changes_nothing(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert load_settings([str(tmp_path / "empty.yaml")]).settings == load_settings().settings


def test_an_output_within_its_input_is_refused():
    options = {"input.uri": ("--input", "s3://b/x"), "output.uri": ("--output", "s3://b/x/")}
    with pytest.raises(ConfigError, match="choose an output outside the input"):
        load_settings((), (), options)


def keys(model: type[BaseModel], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for name, field in model.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found |= keys(annotation, f"{path}.")
        else:
            found.add(path)
    return found


def test_the_shipped_default_lists_every_key_and_equals_the_built_in_values():
    shipped = yaml.safe_load((CONF / "default.yaml").read_text(encoding="utf-8"))

    def has(path: str) -> bool:
        node = shipped
        for part in path.split("."):
            if not isinstance(node, dict) or part not in node:
                return False
            node = node[part]
        return True

    assert [path for path in sorted(keys(Settings)) if not has(path)] == []
    assert load_settings().settings == Settings()


def commented_keys(text: str) -> dict[str, str]:
    """Return the comment above each key of a YAML file, in one line."""
    path: list[str] = []
    comments: list[str] = []
    found = {}
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            comments.append(line.lstrip("# "))
            continue
        if match := re.match(r"( *)([a-z_0-9]+):", line):
            path = [*path[: len(match[1]) // 2], match[2]]
            found[".".join(path)] = " ".join(comments)
        comments = []
    return found


def described_keys(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, field in section.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        if field.description:
            yield key, field.description
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from described_keys(field.annotation, f"{key}.")


def test_the_shipped_file_describes_each_key_as_the_code_does():
    shipped = commented_keys((CONF / "default.yaml").read_text(encoding="utf-8"))
    described = dict(described_keys(Settings))
    assert len(described) > 80
    assert {key: shipped.get(key) for key in described} == described


@pytest.mark.parametrize("name", ["GEMINI_API_KEY", "aws_session_token", "DB_PASSWORD"])
def test_a_credential_in_the_runtime_environment_is_refused_without_its_value(name: str):
    with pytest.raises(ConfigError) as raised:
        load_settings(overrides=[f"ray.runtime_env={{env_vars: {{{name}: canary}}}}"])
    message = str(raised.value)
    assert f"ray.runtime_env: env_vars.{name} is the name of a credential" in message
    assert "set the variable in the environment of the nodes" in message
    assert "canary" not in message
    fine = load_settings(overrides=["ray.runtime_env={env_vars: {TOKENIZERS_PARALLELISM: 'true'}}"])
    assert fine.settings.ray.runtime_env == {"env_vars": {"TOKENIZERS_PARALLELISM": "true"}}


@pytest.mark.parametrize("size", ["autox", "0", "1025", "1.5"])
def test_a_batch_of_another_size_is_refused_in_one_line(size: str):
    with pytest.raises(ConfigError) as wrong:
        load_settings((), [f"smolvlm.batch_size={size}"])
    assert str(wrong.value).startswith(
        "--set smolvlm.batch_size: must be auto or a number from 1 to 1024 (it is "
    )
    assert "\n" not in str(wrong.value)


def test_what_is_wrong_with_a_whole_section_names_what_was_set_in_it():
    with pytest.raises(ConfigError) as wrong:
        load_settings((), ["smolvlm.engine=server", "smolvlm.batch_size=4"])
    said = str(wrong.value)
    assert said.startswith("--set smolvlm.engine, --set smolvlm.batch_size: smolvlm: server.base_url must be")
