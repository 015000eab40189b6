"""Python code reduced to what it does: its syntax tree without words, type hints and layout.

Words are what people read: documentation, messages, descriptions of parameters.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, cast

_LEVELS = frozenset({"debug", "info", "warning", "error", "exception", "critical", "log"})
_SPOKEN = frozenset({"track", "exclusive", "files.exclusive"})
"""Functions that are given words for progress and messages."""
_OF_TEXT = frozenset(
    {"counted", "get", "get_close_matches", "items", "join", "len", "list", "repr", "rstrip",
     "sorted", "str", "strip", "type"}
)  # fmt: skip
"""Functions that put words together."""
_SPECIAL_FIELD = re.compile(r"\b(ClassVar|InitVar|KW_ONLY)\b")


def behaviour(text: str | bytes) -> str:
    """Python code reduced to what it does, in one spelling.

    Comments, docstrings, type hints, what is raised or logged in words, `description=` of
    parameters and the layout of the text are gone; so are imports and private functions that served
    those alone. The spelling is that of this Python: another may have another.

    Args:
        text: The source of a module.

    Raises:
        SyntaxError: It is not Python.
    """
    return ast.unparse(without_unused(wordless(ast.parse(text))))


def wordless(tree: ast.AST) -> Any:
    """A syntax tree without words and type hints; the tree that is given is changed."""
    tree = _Wordless().visit(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            while unread := _unread_texts(node):
                _Without(unread).generic_visit(node)
    return tree


class _Wordless(ast.NodeTransformer):
    """Takes words and type hints out of a syntax tree."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        """Drop docstrings and what is logged."""
        value = node.value
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            return None
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):
            owner = value.func.value
            is_log = isinstance(owner, ast.Name) and owner.id == "log"
            if is_log and value.func.attr in _LEVELS and not _binds(value):
                return None
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> Any:
        """Drop imports for type hints."""
        if ast.unparse(node.test).rpartition(".")[2] == "TYPE_CHECKING":
            return [self.visit(one) for one in node.orelse] or None
        return self._with_body(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Drop the words of an exception, of progress, of a parameter, and the type of a cast."""
        name = _called(node)
        if name.endswith(("Error", "Exception", "Warning", "Words")) or name == "warnings.warn":
            return ast.Call(node.func, [], [])
        self.generic_visit(node)
        if name == "cast" and len(node.args) == 2:
            return node.args[1]
        if name == "Field":
            node.keywords = [one for one in node.keywords if one.arg != "description"]
        if name in _SPOKEN:
            node.args = [one for one in node.args if not _is_text(one)]
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        """Drop the words of what a function makes an exception of."""
        self.generic_visit(node)
        for one in ast.walk(node):
            if isinstance(one, ast.Call):
                one.args = [given for given in one.args if not _is_text(given)]
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        """Drop what a failed assertion says."""
        return ast.Assert(self.visit(node.test), None)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Drop what a function returns, in the words of type hints."""
        node.returns = None
        return self._with_body(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        """As of any function."""
        node.returns = None
        return self._with_body(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        """Drop the type hint of an argument."""
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        """Drop the type hint of a variable; `visit_ClassDef` has seen to those of fields."""
        if getattr(node, "is_field", False):
            return self.generic_visit(node)
        if node.value is None:
            return None
        return ast.Assign([node.target], self.visit(node.value), lineno=node.lineno)

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        """Drop the number of the release, which would make all stages stale at every release."""
        return None if assigns(node, "__version__") else self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """Keep the type hints of fields where they decide, as in the sections of parameters."""
        for one in node.body:
            if isinstance(one, ast.AnnAssign):
                one.is_field = True  # type: ignore[attr-defined]
                if not _reads_hint(node, one):
                    one.annotation = ast.Constant(...)
        return self._with_body(node)

    def visit_Module(self, node: ast.Module) -> ast.AST:
        """Visit what a module holds."""
        return self._with_body(node)

    def _with_body(self, node: Any) -> ast.AST:
        self.generic_visit(node)
        kept = [one for one in node.body if not isinstance(one, ast.Pass)]
        node.body = kept or [ast.Pass()]
        return cast(ast.AST, node)


class _Without(ast.NodeTransformer):
    """Takes assignments out of a syntax tree."""

    def __init__(self, gone: list[ast.Assign]) -> None:
        self._gone = gone

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        """Drop it if it is one of those."""
        return None if node in self._gone else node


def _unread_texts(function: ast.AST) -> list[ast.Assign]:
    """The texts that a function puts together and that it does not read any more."""
    read: set[str] = set()
    assigned: list[tuple[str, ast.Assign]] = []
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Store):
            read.add(node.id)
        elif isinstance(node, ast.Global | ast.Nonlocal):
            read.update(node.names)
        elif isinstance(node, ast.Assign):
            names = [one.id for one in node.targets if isinstance(one, ast.Name)]
            if len(names) == len(node.targets) == 1:
                assigned.append((names[0], node))
    return [node for name, node in assigned if name not in read and _makes_text(node.value)]


def _makes_text(node: ast.AST) -> bool:
    """Whether an expression does nothing but put words together."""
    called = (_called(one) for one in ast.walk(node) if isinstance(one, ast.Call))
    return not _binds(node) and all(one.rpartition(".")[2] in _OF_TEXT for one in called)


def _binds(node: ast.AST) -> bool:
    return any(isinstance(one, ast.NamedExpr | ast.Await | ast.Yield) for one in ast.walk(node))


def _reads_hint(owner: ast.ClassDef, field: ast.AnnAssign) -> bool:
    """Whether the type hint of a field may decide something; in a plain class it does not."""
    bases = {ast.unparse(base).rpartition(".")[2] for base in owner.bases}
    is_special = _SPECIAL_FIELD.search(ast.unparse(field.annotation))
    return not bases <= {"NamedTuple", "Protocol"} or is_special is not None


def without_unused(tree: Any) -> Any:
    """A module without the imports and private definitions that nothing there uses.

    The tree that is given is changed.
    """
    exported = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    } | {one for node in tree.body if assigns(node, "__all__") for one in texts(ast.walk(node))}
    names = {
        node: {one.id for one in ast.walk(node) if isinstance(one, ast.Name)} for node in tree.body
    }
    while True:
        used = exported.union(*names.values())
        unused = [node for node in names if not _is_used(node, used)]
        if not unused:
            break
        for node in unused:
            del names[node]
    for node in names:
        if isinstance(node, ast.Import | ast.ImportFrom):
            node.names = [alias for alias in node.names if _bound(alias) in used]
    tree.body = _with_imports_in_order(list(names))
    return tree


def _with_imports_in_order(body: list[ast.stmt]) -> list[ast.stmt]:
    """Statements of which those that import, where several follow each other, are sorted."""
    ordered: list[ast.stmt] = []
    for is_import, run in groupby(body, lambda one: isinstance(one, ast.Import | ast.ImportFrom)):
        statements = list(run)
        if is_import:
            for one in statements:
                one.names.sort(key=lambda alias: alias.name)  # type: ignore[attr-defined]
            statements.sort(key=ast.unparse)
        ordered += statements
    return ordered


def _is_used(node: ast.AST, used: set[str]) -> bool:
    """Whether a statement of a module binds a name that is used, or does more than that."""
    if isinstance(node, ast.ImportFrom) and node.module == "__future__":
        return False
    if isinstance(node, ast.Import | ast.ImportFrom):
        return any(_bound(alias) in used for alias in node.names)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        is_private = node.name.startswith("_") and not node.name.startswith("__")
        return not is_private or node.name in used or bool(node.decorator_list)
    return True


def _bound(alias: ast.alias) -> str:
    return alias.asname or alias.name.partition(".")[0]


def _called(node: ast.Call) -> str:
    """The dotted name that is called, of which the last part may be all that is told."""
    function = node.func
    if isinstance(function, ast.Attribute):
        owner = function.value.id if isinstance(function.value, ast.Name) else ""
        return f"{owner}.{function.attr}"
    return function.id if isinstance(function, ast.Name) else ""


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def assigns(node: ast.AST, name: str) -> bool:
    """Whether a statement assigns to this name."""
    return isinstance(node, ast.Assign) and any(
        isinstance(one, ast.Name) and one.id == name for one in node.targets
    )


def texts(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """The strings among some nodes of a syntax tree."""
    for one in nodes:
        if isinstance(one, ast.Constant) and isinstance(one.value, str):
            yield one.value
