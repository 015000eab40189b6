"""Code in other words, independent of how segops tells words from deeds."""

from __future__ import annotations

import ast


class Rewording(ast.NodeTransformer):
    """Puts other words in the place of those that a module says, however it says them."""

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        for one in ast.walk(node):
            if isinstance(one, ast.Constant) and isinstance(one.value, str):
                one.value += " Once more."
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            node.value.value += " Once more."
        return self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> ast.AST:
        if node.arg == "description" and isinstance(node.value, ast.Constant):
            node.value.value += " Once more."
        return self.generic_visit(node)
