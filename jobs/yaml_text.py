"""Read YAML that people write, and refuse what only an attack or an accident contains.

PyYAML's safe loader runs no code. Aliases of aliases can still expand a few lines to more values than any
memory holds, a value can contain itself, and some values raise errors that don't say where they are.
"""

from __future__ import annotations

from typing import Any

import yaml

_MOST_VALUES = 100_000
_DEEPEST = 50
_MOST_BITS = 64


class InvalidYamlError(ValueError):
    """A text is not YAML, or is YAML that a configuration can't be. The message says where and why."""


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML document.

    Raises:
        InvalidYamlError: It isn't one, or it has more than 100,000 values with aliases written out, values
            nested more than 50 deep, a key twice, a number of more than 64 bits, or a wrong date.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506  a safe loader
    except yaml.YAMLError as error:
        raise InvalidYamlError(_described(error)) from error


def _described(error: yaml.YAMLError) -> str:
    """Return where YAML is wrong and how, without the lines of the file that PyYAML shows."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f": not valid YAML: {' '.join(str(error).split())}"
    said = ": ".join(filter(None, (getattr(error, name, None) for name in ("context", "problem"))))
    return f", line {mark.line + 1}, column {mark.column + 1}: not valid YAML: {said}"


class _Loader(yaml.SafeLoader):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._values = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node as PyYAML does, and count its values, those of aliases included."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        is_alias = isinstance(event, yaml.AliasEvent)
        before = self._values
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _problem(f"values are nested more than {_DEEPEST} deep", event.start_mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias and id(node) not in self._sizes:
            raise _problem("a value contains itself", event.start_mark)
        self._values += self._sizes[id(node)] if is_alias else 1
        if self._values > _MOST_VALUES:
            raise _problem(
                f"aliases expand it to more than {_MOST_VALUES:,} values; write out what is needed",
                event.start_mark,
            )
        if not is_alias:
            self._sizes[id(node)] = self._values - before
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping as PyYAML does, which silently takes the last one of equal keys."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise _problem(f"the key {key.value} is there twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Construct a value as PyYAML does, with the place of a value that can't be."""
        try:
            value = super().construct_object(node, deep)
        except (ValueError, OverflowError) as error:
            raise _problem(str(error), node.start_mark) from error
        if isinstance(value, int) and value.bit_length() > _MOST_BITS:
            raise _problem(f"a number of more than {_MOST_BITS} bits", node.start_mark)
        if isinstance(value, str) and not value.isprintable() and not _is_unicode(value):
            raise _problem("half of a surrogate pair is no character", node.start_mark)
        return value


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _problem(text: str, mark: Any) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, text, mark)
