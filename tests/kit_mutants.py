"""Damage a solution in every small way: without one call, without one flag."""

from __future__ import annotations

import ast
import copy
import functools
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

FLAG = ("CLONE_", "MS_", "MNT_", "MOUNT_ATTR_", "AT_", "OPEN_TREE_", "MOVE_MOUNT_", "RESOLVE_", "PR_", "O_")


Damage = Callable[[Any], None]  # done to a copy of the node


def mutants(source: str) -> Iterator[tuple[str, str]]:
    """Pairs (what was done, the damaged source), one small damage each."""
    tree = ast.parse(textwrap.dedent(source))
    for number, node in enumerate(ast.walk(tree)):
        for what, damage in _damages(node):
            copied = copy.deepcopy(tree)
            damage(list(ast.walk(copied))[number])
            yield f"without {what}", ast.unparse(ast.fix_missing_locations(copied))


def _damages(node: ast.AST) -> Iterator[tuple[str, Damage]]:
    """What can be taken away from this node."""
    match node:
        case ast.Expr(value=ast.Call()) | ast.AugAssign():
            yield ast.unparse(node), lambda it: _become(it, ast.Pass())
        case ast.Assign(value=ast.Call()) | ast.AnnAssign(value=ast.Call()) | ast.Return(value=ast.Call()):
            yield ast.unparse(node), lambda it: setattr(it, "value", ast.Constant(None))
        case ast.BinOp(op=ast.BitOr()) if _is_flag(node.right):  # and not the annotation int | None
            yield from _flags_of_a_sum(node)
        case ast.Call():
            yield from _single_flags(node)
        case ast.With(items=items):
            for at, item in enumerate(items):
                yield f"with {ast.unparse(item)}", functools.partial(_without_context, at)


def _flags_of_a_sum(node: ast.BinOp) -> Iterator[tuple[str, Damage]]:
    """Of A | B | C the outer node can lose C, the inner one A or B."""
    if not isinstance(node.left, ast.BinOp):
        yield f"{ast.unparse(node.left)} in {ast.unparse(node)}", lambda it: _become(it, it.right)
    yield f"{ast.unparse(node.right)} in {ast.unparse(node)}", lambda it: _become(it, it.left)


def _single_flags(node: ast.Call) -> Iterator[tuple[str, Damage]]:
    for at, one in enumerate(node.args):
        if _is_flag(one):
            yield f"{ast.unparse(one)} in {ast.unparse(node)}", functools.partial(_zero_argument, at)
    for at, keyword in enumerate(node.keywords):
        if _is_flag(keyword.value):
            yield f"{ast.unparse(keyword)} in {ast.unparse(node)}", functools.partial(_zero_keyword, at)


def _zero_argument(at: int, node: ast.Call) -> None:
    node.args[at] = ast.Constant(0)


def _zero_keyword(at: int, node: ast.Call) -> None:
    node.keywords[at].value = ast.Constant(0)


def _is_flag(node: ast.expr) -> bool:
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return name.startswith(FLAG)


def _become(node: ast.AST, other: ast.AST) -> None:
    """Turn ``node`` into ``other`` on the spot, so that no parent need be known."""
    node.__class__ = other.__class__  # type: ignore[assignment]
    location = {key: getattr(node, key) for key in ("lineno", "col_offset", "end_lineno", "end_col_offset")
                if hasattr(node, key)}
    node.__dict__.clear()
    node.__dict__.update({**location, **other.__dict__})


def _without_context(at: int, node: ast.With) -> None:
    """Keep the block; what ``as`` would bind is None."""
    null = ast.Call(ast.Attribute(ast.Call(ast.Name("__import__"), [ast.Constant("contextlib")], []),
                                  "nullcontext"), [], [])
    node.items[at].context_expr = null
