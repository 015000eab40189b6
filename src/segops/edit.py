"""Changes of ``params.yaml`` that keep its comments, its order and every line they do not touch."""

from __future__ import annotations

import copy
import difflib
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from segops import files
from segops.params.file import Params, load_params, parse_params
from segops.runtime.errors import SegopsError


@dataclass(frozen=True)
class Change:
    """A parameter that gets another value.

    Attributes:
        key: Dotted key.
        old: The value before, the default where the file named none; None also where there was no
            such entry (in an open mapping such as `model.options`).
        new: The value after; likewise.
    """

    key: str
    old: Any
    new: Any


@dataclass(frozen=True)
class Edit:
    """A checked change of a ``params.yaml``, not written yet.

    Attributes:
        path: The file.
        before: Its text when the change was planned.
        after: Its text with the change.
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
        if _read(self.path) != self.before:
            raise SegopsError(
                f"{self.path}: changed while this command ran; nothing is written. Run it again."
            )
        files.write_bytes(self.path, self.after.encode())


def plan(path: Path, values: Mapping[str, Any], source: str | None = None) -> Edit:
    """Work out a change of ``params.yaml`` and check it; nothing is written.

    A key whose value is the one that already holds is left as it is, spelling included.

    Args:
        path: The file, or the workspace directory that holds a ``params.yaml``.
        values: New values by dotted key. A mapping replaces what is there whole.
        source: Who asks for them, a recipe's file for example; it stands in the error messages.

    Raises:
        SegopsError: The file cannot be read, or with these values it would hold an unknown key or
            a bad value; every offending key is listed.
    """
    path = path / "params.yaml" if path.is_dir() else path
    before = _read(path)
    old = load_params(path)
    tree = yaml.safe_load(before) or {}
    name = f"{source}, put over {path}" if source else str(path)
    wanted = copy.deepcopy(tree)
    _set_all(wanted, values)
    flat = old.flat()
    settings = parse_params(wanted, name)
    changes = _changes(flat, settings.flat())
    acting = {
        key: value
        for key, value in values.items()
        if any(one.key == key or one.key.startswith(f"{key}.") for one in changes)
    }
    after = _text(path, before, tree, acting) if acting else before
    return Edit(path, before, after, settings, changes)


def put(settings: Params, values: Mapping[str, Any], name: str) -> Params:
    """Parameters with other values, checked as those of a file are.

    Args:
        settings: The parameters.
        values: New values by dotted key, as :func:`plan` takes them.
        name: What they are called in the error message.

    Raises:
        SegopsError: They are not usable; every offending key is listed.
    """
    tree = settings.model_dump(mode="json", by_alias=True)
    _set_all(tree, values)
    return parse_params(tree, name)


def overlay_values(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a nested overlay by dotted key, as :func:`plan` takes them.

    Sections are gone into, so that an overlay may name some of their keys; an open mapping such as
    `model.options` is one value and replaces the one before it.
    """
    values: dict[str, Any] = {}
    for key, value in tree.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping) and value and _is_section(dotted):
            values |= overlay_values(value, f"{dotted}.")
        else:
            values[dotted] = value
    return values


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        raise SegopsError(
            f"{path}: no such file. Run segops in the root of a checkout, beside dvc.yaml."
        ) from None
    except UnicodeDecodeError as error:
        raise SegopsError(f"{path}: not readable as YAML: {error}") from None


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[Change, ...]:
    keys = [*new, *(key for key in old if key not in new)]
    return tuple(
        Change(key, old.get(key), new.get(key))
        for key in keys
        if (key in old) != (key in new) or old.get(key) != new.get(key)
    )


def _section(key: str) -> tuple[type[BaseModel] | None, list[str]]:
    """The last section that a dotted key leads into, and the parts of the key.

    What follows the name of an open mapping is one part, dots and all: `tune.ranges.train.lr` is
    the entry `train.lr` of `tune.ranges`.
    """
    section: type[BaseModel] | None = Params
    names = key.split(".")
    for place, name in enumerate(names):
        fields = {} if section is None else section.model_fields
        field = next((one for own, one in fields.items() if name in (own, one.alias)), None)
        annotation = field.annotation if field else None
        if not isinstance(annotation, type) or not issubclass(annotation, BaseModel):
            rest = ".".join(names[place + 1 :])
            return None, [*names[: place + 1], *([rest] if rest else [])]
        section = annotation
    return section, names


def _is_section(key: str) -> bool:
    return _section(key)[0] is not None


def _set_all(tree: Any, values: Mapping[str, Any], make: Any = dict) -> None:
    """Set values by dotted key in a tree of mappings, making those that are missing."""
    for key, value in values.items():
        *parents, last = _section(key)[1]
        place = tree
        for name in parents:
            if place.get(name) is None:
                place[name] = make()
            place = place[name]
        place[last] = value if make is dict else _node(value, place.get(last))


def _text(path: Path, before: str, tree: Any, values: Mapping[str, Any]) -> str:
    """The file's text with the values set."""
    wanted = copy.deepcopy(tree)
    _set_all(wanted, values)
    text = before.replace("\r\n", "\n")
    try:
        document = _yaml(text).load(text)
        same = "" if document is None else _dump(document, text)
        document = CommentedMap() if document is None else document
        _set_all(document, values, CommentedMap)
        changed = _dump(document, text)
    except YAMLError as error:
        raise SegopsError(f"{path}: not readable as YAML 1.2: {error}") from None
    merged = _merged(text, same, changed) if same else f"{text}{changed}"
    for candidate in (merged, changed):
        if _means(candidate, wanted):
            return candidate.replace("\n", "\r\n") if "\r\n" in before else candidate
    raise SegopsError(
        f"{path}: {', '.join(values)} cannot be set without changing something else (is it part of "
        "an anchor or a merge key?). Set it by hand."
    )


def _means(text: str, tree: Any) -> bool:
    try:
        return bool(yaml.safe_load(text) == tree)
    except yaml.YAMLError:
        return False


def _merged(before: str, same: str, changed: str) -> str:
    """`before` with the lines that differ between `same` and `changed`.

    A round trip may spell a line in another way (its indentation, spaces in a list); what was not
    changed keeps its own spelling, and what was keeps the indentation of its neighbours.
    """
    original = before.splitlines(keepends=True)
    old, new = same.splitlines(keepends=True), changed.splitlines(keepends=True)
    if len(original) != len(old):
        return changed
    indents = {_indent(line): _indent(own) for line, own in zip(old, original, strict=True)}
    lines: list[str] = []
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for tag, first, last, new_first, new_last in matcher.get_opcodes():
        if tag == "equal":
            lines += original[first:last]
        for line in new[new_first:new_last] if tag != "equal" else ():
            lines.append(indents.get(_indent(line), _indent(line)) + line.lstrip(" -"))
    return "".join(lines)


def _indent(line: str) -> str:
    """The spaces before a line's content, and the dash of a list's item."""
    return line[: len(line) - len(line.lstrip(" -"))]


def _yaml(text: str) -> YAML:
    """A round trip that changes as little as it can."""
    document = YAML()
    document.preserve_quotes = True
    document.width = 1 << 16  # no line is broken
    document.explicit_start = text.startswith("---")
    document.representer.add_representer(float, _represent_float)
    return document


def _represent_float(representer: Any, value: float) -> Any:
    # PyYAML, which reads the file, takes 1e-05 for text: it wants a point.
    text = yaml.safe_dump(value).split("\n", 1)[0]
    return representer.represent_scalar("tag:yaml.org,2002:float", text)


def _dump(document: Any, before: str) -> str:
    stream = io.StringIO()
    _yaml(before).dump(document, stream)
    return stream.getvalue()


def _node(value: Any, old: Any) -> Any:
    """A value as a node; mappings and lists in one line unless the old one was a block."""
    if isinstance(value, str):
        # What PyYAML would take for something else ("no", "1e5") needs quotes.
        return value if yaml.safe_load(value) == value else DoubleQuotedScalarString(value)
    if isinstance(value, Mapping):
        node: Any = CommentedMap((_node(key, None), _node(one, None)) for key, one in value.items())
    elif isinstance(value, Iterable):
        node = CommentedSeq(_node(one, None) for one in value)
    else:
        return value
    is_block = isinstance(old, CommentedMap | CommentedSeq) and not old.fa.flow_style()
    if is_block and len(node):
        node.fa.set_block_style()
    else:
        node.fa.set_flow_style()
    return node
