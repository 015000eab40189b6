"""Reads YAML files of a small size and depth, whatever their aliases unfold to."""

from __future__ import annotations

from typing import Any

import yaml

MOST_CHARACTERS = 200_000
MOST_VALUES = 20_000
DEEPEST = 50
LONGEST_NUMBER = 100
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class Loader(yaml.SafeLoader):
    """Refuses what is too large before any value is built, and a mapping with a key twice.

    DVC refuses such a mapping too; PyYAML takes the last value.
    """

    depth = values = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Bound the depth and the number of values while the text is read."""
        self.depth += 1
        self.values += 1
        if self.depth > DEEPEST:
            raise _refused(f"nested deeper than {DEEPEST} levels", self.get_mark())
        if self.values > MOST_VALUES:
            raise _refused(f"more than {MOST_VALUES:,} values", self.get_mark())
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def get_single_node(self) -> Any:
        """Bound what the aliases of the document unfold to."""
        node = super().get_single_node()
        if node is not None:
            _unfold(node, {})
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """Turn what PyYAML raises on values that are none into an error of YAML."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError) as error:
            # such as the date 2024-99-99, or what PyYAML raises for `!!bool 3`
            raise _refused(f"no value that can be read ({error})", node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that stands twice."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise _refused(f"the key {key.value} stands twice; remove one", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def load(text: str) -> Any:
    """Read a YAML document.

    Raises:
        yaml.YAMLError: It is no YAML, names a key twice, or is too large: it has more than
            `MOST_CHARACTERS`, more than `MOST_VALUES` with its aliases unfolded, more than
            `DEEPEST` levels, or a number of more than `LONGEST_NUMBER` characters.
    """
    if len(text) > MOST_CHARACTERS:
        raise yaml.YAMLError(
            f"it has {len(text):,} characters; expected at most {MOST_CHARACTERS:,}"
        )
    return yaml.load(text, Loader)


def _unfold(node: yaml.Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """The number of values and of levels of a node, its aliases unfolded.

    `known` are those of the nodes before it; None: of a node that holds this one.
    """
    if id(node) in known:
        found = known[id(node)]
        if found is None:
            raise _refused("an alias stands inside the value that it names", node.start_mark)
        return found
    known[id(node)] = None
    below: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        below = node.value
    elif isinstance(node, yaml.MappingNode):
        below = [one for pair in node.value for one in pair]
    elif node.tag in _NUMBERS and len(node.value) > LONGEST_NUMBER:
        raise _refused(
            f"a number of {len(node.value):,} characters; expected at most {LONGEST_NUMBER}",
            node.start_mark,
        )
    values, levels = 1, 0
    for one in below:
        more, deep = _unfold(one, known)
        values, levels = values + more, max(levels, deep)
        if values > MOST_VALUES or levels >= DEEPEST:
            raise _refused(
                f"more than {MOST_VALUES:,} values or {DEEPEST} levels, its aliases unfolded",
                one.start_mark,
            )
    known[id(node)] = values, levels + 1
    return values, levels + 1


def _refused(problem: str, mark: Any) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, mark)
