"""YAML as recipes need it: exact numbers, no silent duplicates, and the line each key stands on.

PyYAML reads YAML 1.1, where ``1e-3`` is text and ``2024-01-01`` a date, and it lets a second ``lr:`` win over
the first. Here ``1e-3`` is a number, a date is text and a second ``lr:`` is an error.
"""

import re
from collections.abc import Hashable
from typing import Any

import yaml

_EXPONENT = re.compile(r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$")
_FLOAT, _DATE, _INT = "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:int"
_LONGEST_INT = 1000


class YamlError(ValueError):
    """The text is not YAML; the message says where."""


MOST_TEXT = 1_000_000
"""Characters of a YAML text. Recipes have some thousands; PyYAML takes a minute for each megabyte."""
MOST_NODES = 100_000
"""Values in it, those of aliases counted as often as they are named."""
DEEPEST = 50
"""Levels of lists and mappings in each other."""


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth = getattr(self, "depth", 0) + 1
        if self.depth > DEEPEST:
            raise YamlError(f"lists and mappings stand in each other more than {DEEPEST} levels deep")
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                line = key.start_mark.line + 1
                if key.value in seen:
                    raise YamlError(f"line {line}: {key.value!r} is there twice, first on line {seen[key.value]}")
                seen[key.value] = line
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    pass


for _kind in (_Loader, _Dumper):
    # The dumper must agree with the loader on what looks like a number: the text "1e3" must not become 1000.0.
    _kind.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != _DATE]
        for first, resolvers in _kind.yaml_implicit_resolvers.items()
    }
    _kind.add_implicit_resolver(_FLOAT, _EXPONENT, list("-+.0123456789"))


def parse_yaml(text: str) -> tuple[Any, dict[str, int]]:
    """Reads YAML text.

    Returns:
        The value, and the line (from 1) of every key of nested mappings, by its dotted path.

    Raises:
        YamlError: The text is not YAML, a key stands twice in one mapping, or it is too long, too deep, or has aliases
            of itself or too many values.
    """
    if len(text) > MOST_TEXT:
        raise YamlError(f"it has {len(text):,} characters, and may have {MOST_TEXT:,}")
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None, {}
            _count(node, set(), {})
            lines: dict[str, int] = {}
            _note_lines(node, "", lines)
            return loader.construct_document(node), lines
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise YamlError(f"{where}{error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise YamlError(str(error)) from error
    except YamlError:
        raise
    except (ValueError, KeyError, TypeError, OverflowError, AttributeError) as error:  # PyYAML's own, of !!int x
        raise YamlError(f"a value is not what its tag or its form says: {error}") from error


def dump(value: Any) -> str:
    """Writes plain values as YAML text that `parse` reads back as they were; mappings in their own order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def can_dump(value: Any) -> bool:
    """Whether a value is one that YAML can hold."""
    try:
        dump(value)
    except yaml.YAMLError:
        return False
    return True


def dump_line(value: Any) -> str:
    """Writes a value on one line for messages and tables: as YAML, or as Python shows it when YAML cannot."""
    try:
        text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, sort_keys=False, width=10**6)
    except yaml.YAMLError:
        return repr(value)
    return text.removesuffix("...\n").strip()


def _note_lines(node: yaml.Node, prefix: str, lines: dict[str, int]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = f"{prefix}{key.value}"
            lines[path] = key.start_mark.line + 1
            _note_lines(value, f"{path}.", lines)


def _count(node: yaml.Node, within: set[int], known: dict[int, int]) -> int:
    """The values in a node.

    Raises:
        YamlError: If it is in itself, or there are too many.
    """
    if id(node) in within:
        raise YamlError(f"line {node.start_mark.line + 1}: a value holds itself, by an alias")
    if id(node) not in known:
        parts: list[yaml.Node] = []
        if isinstance(node, yaml.ScalarNode) and node.tag == _INT and len(node.value) > _LONGEST_INT:
            raise YamlError(f"line {node.start_mark.line + 1}: a whole number of {len(node.value):,} digits")
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            parts = node.value
        within.add(id(node))
        known[id(node)] = 1 + sum(_count(part, within, known) for part in parts)
        within.remove(id(node))
    if known[id(node)] > MOST_NODES:
        raise YamlError(f"line {node.start_mark.line + 1}: more than {MOST_NODES:,} values, by aliases of aliases")
    return known[id(node)]
