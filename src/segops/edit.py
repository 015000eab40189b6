"""Changes of ``params.yaml`` that keep its comments, its order and every other value's spelling."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from segops import files
from segops.params.base import read_text
from segops.params.file import Params, load_params, parse_params
from segops.params.schema import follow, schema_of, set_values
from segops.runtime.errors import SegopsError


@dataclass(frozen=True)
class Change:
    """A parameter that gets another value.

    Attributes:
        key: Dotted key.
        old: The value before, or the default; None also where there was no such entry (in an open
            mapping such as `model.options`).
        new: The value after; likewise.
    """

    key: str
    old: Any
    new: Any


@dataclass(frozen=True)
class Edit:
    """A checked change of a ``params.yaml``, not written yet: the file's text before and after.

    Attributes:
        settings: The parameters with the change.
        changes: What differs, in the file's order of sections; empty where nothing does.
    """

    path: Path
    before: str
    after: str
    settings: Params
    changes: tuple[Change, ...]

    def diff(self) -> str:
        """A unified diff of the file; empty where nothing changes."""
        lines = difflib.unified_diff(
            self.before.splitlines(keepends=True),
            self.after.splitlines(keepends=True),
            f"a/{self.path.name}",
            f"b/{self.path.name}",
            n=0,
        )
        return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)

    def write(self) -> None:
        """Write the file, whole or not at all; where nothing changes it is left alone.

        Raises:
            SegopsError: The file was changed by someone else since the change was planned.
        """
        if self.after == self.before:
            return
        if read_text(self.path) != self.before:
            raise SegopsError(
                f"{self.path}: changed while this command ran; nothing is written. Run it again."
            )
        files.write_text(self.path, self.after)


def plan(path: Path, values: Mapping[str, Any], source: str | None = None) -> Edit:
    """Work out a change of ``params.yaml`` and check it; nothing is written.

    A key that already has the new value keeps its spelling.

    Args:
        path: The file, or the workspace directory that holds a ``params.yaml``.
        values: New values by dotted key. A mapping replaces the whole old value.
        source: Origin of the values, such as a recipe's file; error messages name it.

    Raises:
        SegopsError: The file cannot be read, or with these values it would hold an unknown key or
            a bad value; every offending key is listed.
    """
    path = path / "params.yaml" if path.is_dir() else path
    before = read_text(path)
    old = load_params(path)
    wanted = yaml.safe_load(before) or {}
    set_values(Params, wanted, values)
    settings = parse_params(wanted, f"{source}, put over {path}" if source else str(path))
    changes = _changes(old.flat(), settings.flat())
    acting = {
        key: value
        for key, value in values.items()
        if any(one.key == key or one.key.startswith(f"{key}.") for one in changes)
    }
    return Edit(path, before, _text(path, before, settings, acting), settings, changes)


def put(settings: Params, values: Mapping[str, Any], name: str) -> Params:
    """Parameters with other values, as :func:`plan` takes them, checked as those of a file are.

    Error messages call them `name`.

    Raises:
        SegopsError: They are not usable; every offending key is listed.
    """
    tree = settings.model_dump(mode="json", by_alias=True)
    set_values(Params, tree, values)
    return parse_params(tree, name)


def overlay_values(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a nested overlay by dotted key, as :func:`plan` takes them.

    Sections are gone into, so that an overlay may name some of their keys; an open mapping such as
    `model.options` is one value and replaces the one before it.
    """
    values: dict[str, Any] = {}
    for key, value in tree.items():
        dotted = f"{prefix}{key}"
        schema = follow(schema_of(Params), dotted)[0] or {}
        if isinstance(value, Mapping) and value and "properties" in schema:
            values |= overlay_values(value, f"{dotted}.")
        else:
            values[dotted] = value
    return values


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[Change, ...]:
    keys = [*new, *(key for key in old if key not in new)]
    return tuple(
        Change(key, old.get(key), new.get(key))
        for key in keys
        if (key in old) != (key in new) or old.get(key) != new.get(key)
    )


def _text(path: Path, before: str, settings: Params, values: Mapping[str, Any]) -> str:
    """The file's text with the values set, after which it holds these settings."""
    text = before
    try:
        for key, value in values.items():
            text = _with(text, follow(schema_of(Params), key)[1], value)
        if parse_params(yaml.safe_load(text) or {}) == settings:
            return text
    except (yaml.YAMLError, SegopsError):
        pass
    raise SegopsError(
        f"{path}: {', '.join(values)} cannot be set without changing something else (is it part of "
        "an anchor or a merge key?). Set it by hand."
    )


def _with(text: str, parts: Sequence[str], value: Any) -> str:
    """A YAML text with one value set; only the characters of that value change."""
    line_end = "\r\n" if "\r\n" in text else "\n"
    parent: Any = yaml.compose(text, yaml.SafeLoader)
    if not isinstance(parent, yaml.MappingNode):  # a file without sections
        return f"{text}{line_end.join(_lines(parts, value))}{line_end}"
    for depth, name in enumerate(parts):
        pair = next((one for one in parent.value if one[0].value == name), None)
        if pair is None:
            return _added(text, parent, parts[depth:], value, line_end)
        (key, node), rest = pair, parts[depth + 1 :]
        if not rest or not isinstance(node, yaml.MappingNode):
            return _replaced(text, key, node, _nested(rest, value), line_end)
        parent = node
    raise AssertionError("a key has at least one part")


def _replaced(text: str, key: yaml.Node, node: yaml.Node, value: Any, line_end: str) -> str:
    start, end = node.start_mark.index, _end(node)
    is_block = isinstance(node, yaml.CollectionNode) and not node.flow_style
    if is_block and value and isinstance(value, Mapping | list | tuple):
        entries = (
            [f"{_flow(name)}: {_flow(one)}" for name, one in value.items()]
            if isinstance(value, Mapping)
            else [f"- {_flow(one)}" for one in value]
        )
        new = f"{line_end}{' ' * node.start_mark.column}".join(entries)
    elif is_block or start == end:  # a block or an empty value: the new value goes beside the key
        start = text.index(":", key.end_mark.index) + 1
        new = f" {_flow(value)}"
    else:
        new = _flow(value)
    return f"{text[:start]}{new}{text[end:]}"


def _added(
    text: str, parent: yaml.MappingNode, parts: Sequence[str], value: Any, line_end: str
) -> str:
    if parent.flow_style:
        place = _end(parent.value[-1][1]) if parent.value else parent.start_mark.index + 1
        comma = ", " if parent.value else ""
        return f"{text[:place]}{comma}{_flow(_nested(parts, value))[1:-1]}{text[place:]}"
    lines = line_end.join(_lines(parts, value, parent.start_mark.column))
    place = text.find("\n", _end(parent)) + 1
    if place == 0:  # the last line is not ended
        return f"{text}{line_end}{lines}{line_end}"
    return f"{text[:place]}{lines}{line_end}{text[place:]}"


def _end(node: yaml.Node) -> int:
    """The end of a node's own text; a block's end mark lies behind comments and blank lines."""
    if isinstance(node, yaml.CollectionNode) and node.value and not node.flow_style:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


def _nested(parts: Sequence[str], value: Any) -> Any:
    """The value within mappings of one key each."""
    for name in reversed(parts):
        value = {name: value}
    return value


def _lines(parts: Sequence[str], value: Any, column: int = 0) -> list[str]:
    """A value below its keys, each on a line of its own."""
    lines = [f"{' ' * (column + 2 * depth)}{_flow(name)}:" for depth, name in enumerate(parts)]
    return [*lines[:-1], f"{lines[-1]} {_flow(value)}"]


def _flow(value: Any) -> str:
    """A value in one line. PyYAML, which also reads the file, quotes and spells what needs it."""
    dumped: str = yaml.safe_dump(
        [value], default_flow_style=True, width=float("inf"), sort_keys=False, allow_unicode=True
    )
    return dumped.strip()[1:-1]
