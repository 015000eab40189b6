"""Reduces Python code to its behaviour: a syntax tree without words, type hints and layout.

Words are texts for people: documentation, messages, descriptions of parameters.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, cast

_LEVELS = frozenset({"debug", "info", "warning", "error", "exception", "critical", "log"})
_WITH_MESSAGE = frozenset({"track", "exclusive", "files.exclusive"})
"""Functions with an argument for a message or a progress label."""
_OF_TEXT = frozenset(
    {"counted", "get", "get_close_matches", "items", "join", "len", "list", "repr", "rstrip",
     "sorted", "str", "strip", "type"}
)  # fmt: skip
"""Functions that build texts."""
_SPECIAL_FIELD = re.compile(r"\b(ClassVar|InitVar|KW_ONLY)\b")


def behaviour(text: str | bytes) -> str:
    """Return the source of a module without what does not affect its behaviour.

    Removed are comments, docstrings, type hints, messages that are raised or logged,
    `description=` of parameters and the layout, and then the imports and private functions that
    nothing uses any more. The layout of the result depends on the version of Python.

    Raises:
        SyntaxError: It is not Python.
    """
    return ast.unparse(without_unused(wordless(ast.parse(text))))


def wordless(tree: ast.AST) -> Any:
    """Remove words and type hints from a syntax tree, in place, and return it."""
    tree = _Wordless().visit(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            while unread := _unread_texts(node):
                _Without(unread).generic_visit(node)
    return tree


class _Wordless(ast.NodeTransformer):
    """Removes words and type hints from a syntax tree."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        """Drop docstrings and log messages."""
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
            return [self.visit(statement) for statement in node.orelse] or None
        return self._with_body(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Drop messages, progress labels, descriptions of parameters, and the type of a cast."""
        name = _called(node)
        if name.endswith(("Error", "Exception", "Warning", "Words")) or name == "warnings.warn":
            return ast.Call(node.func, [], [])
        self.generic_visit(node)
        if name == "cast" and len(node.args) == 2:
            return node.args[1]
        if name == "Field":
            node.keywords = [keyword for keyword in node.keywords if keyword.arg != "description"]
        if name in _WITH_MESSAGE:
            node.args = [argument for argument in node.args if not _is_text(argument)]
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        """Drop the texts that are passed to a function which makes the exception."""
        self.generic_visit(node)
        for call in ast.walk(node):
            if isinstance(call, ast.Call):
                call.args = [argument for argument in call.args if not _is_text(argument)]
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        """Drop the message of an assertion."""
        return ast.Assert(self.visit(node.test), None)

    def visit_FunctionDef(self, node: Any) -> ast.AST:
        """Drop the type hint of a function's result."""
        node.returns = None
        return self._with_body(node)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_arg(self, node: ast.arg) -> ast.AST:
        """Drop the type hint of an argument."""
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        """Drop the type hint of a variable; `visit_ClassDef` handles those of fields."""
        if getattr(node, "is_field", False):
            return self.generic_visit(node)
        if node.value is None:
            return None
        return ast.Assign([node.target], self.visit(node.value), lineno=node.lineno)

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        """Drop the version of segops, so that a release does not make all stages stale."""
        return None if assigns(node, "__version__") else self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """Keep the type hints of fields where they have an effect, as in sections of parameters."""
        for field in node.body:
            if isinstance(field, ast.AnnAssign):
                field.is_field = True  # type: ignore[attr-defined]
                if not _reads_hint(node, field):
                    field.annotation = ast.Constant(...)
        return self._with_body(node)

    def _with_body(self, node: Any) -> ast.AST:
        """Visit a statement with a body, which must not become empty."""
        self.generic_visit(node)
        kept = [statement for statement in node.body if not isinstance(statement, ast.Pass)]
        node.body = kept or [ast.Pass()]
        return cast(ast.AST, node)

    visit_Module = _with_body


class _Without(ast.NodeTransformer):
    """Removes assignments from a syntax tree."""

    def __init__(self, gone: list[ast.Assign]) -> None:
        self._gone = gone

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        """Drop the assignment if it is listed."""
        return None if node in self._gone else node


def _unread_texts(function: ast.AST) -> list[ast.Assign]:
    """Return the assignments of texts that a function does not read any more."""
    read: set[str] = set()
    assigned: list[tuple[str, ast.Assign]] = []
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Store):
            read.add(node.id)
        elif isinstance(node, ast.Global | ast.Nonlocal):
            read.update(node.names)
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            if len(names) == len(node.targets) == 1:
                assigned.append((names[0], node))
    return [node for name, node in assigned if name not in read and _makes_text(node.value)]


def _makes_text(node: ast.AST) -> bool:
    """Whether an expression does nothing but build a text."""
    called = (_called(call) for call in ast.walk(node) if isinstance(call, ast.Call))
    return not _binds(node) and all(name.rpartition(".")[2] in _OF_TEXT for name in called)


def _binds(node: ast.AST) -> bool:
    return any(isinstance(part, ast.NamedExpr | ast.Await | ast.Yield) for part in ast.walk(node))


def _reads_hint(owner: ast.ClassDef, field: ast.AnnAssign) -> bool:
    """Whether the type hint of a field may have an effect; in a plain class it has none."""
    bases = {ast.unparse(base).rpartition(".")[2] for base in owner.bases}
    is_special = _SPECIAL_FIELD.search(ast.unparse(field.annotation))
    return not bases <= {"NamedTuple", "Protocol"} or is_special is not None


def without_unused(tree: Any) -> Any:
    """Remove a module's unused imports and private functions, in place, and return it."""
    exported = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    } | {text for node in tree.body if assigns(node, "__all__") for text in texts(ast.walk(node))}
    names = {
        node: {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
        for node in tree.body
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
    """Sort the import statements within each group of consecutive imports."""
    ordered: list[ast.stmt] = []
    for is_import, run in groupby(body, lambda node: isinstance(node, ast.Import | ast.ImportFrom)):
        statements = list(run)
        if is_import:
            for statement in statements:
                statement.names.sort(key=lambda alias: alias.name)  # type: ignore[attr-defined]
            statements.sort(key=ast.unparse)
        ordered += statements
    return ordered


def _is_used(node: ast.AST, used: set[str]) -> bool:
    """Whether a module's statement binds a used name, or is no import or private function."""
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
    """Return the called name with its owner; the owner is empty if it is an expression."""
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
        isinstance(target, ast.Name) and target.id == name for target in node.targets
    )


def texts(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Yield the strings among nodes of a syntax tree."""
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
