"""What the names of a module stand for."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from typing import Final

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Scoped = Function | ast.ClassDef | ast.Module

SHORTER: Final = {
    "asyncio.get_running_loop()": "loop",
    "asyncio.get_event_loop()": "loop",
    "dbos_async.client.DBOSClient": "dbos_async.DBOSClient",
    "dbos_async.dbos.DBOS": "dbos_async.DBOS",
}
"""What has several names, with the one that is used here."""

BUILT_IN: Final = ("input", "open")

MAX_DEPTH: Final = 20
"""So many names are followed that are bound to one another, which may be a circle."""


class Scope:
    """The names that a module, a class or a function binds."""

    def __init__(self, node: Scoped, outer: Scope | None) -> None:
        self._outer = outer
        self._is_class = isinstance(node, ast.ClassDef)
        self._names: dict[str, str | ast.expr | None] = {}
        """The full name of what was imported, or the only expression that was assigned; ``None`` for anything else."""
        if isinstance(node, Function):
            self._names = dict.fromkeys(_parameters(node.args))
        assigned: dict[ast.expr, ast.expr] = {}
        elsewhere: set[str] = set()
        for child in _own_nodes(body(node)):
            self._read(child, assigned, elsewhere)
        for name in elsewhere:
            self._names.pop(name, None)

    def _read(self, node: ast.AST, assigned: dict[ast.expr, ast.expr], elsewhere: set[str]) -> None:
        match node:
            case ast.Import():
                for alias in node.names:
                    top = alias.name.partition(".")[0]
                    self._names[alias.asname or top] = alias.name if alias.asname else top
            case ast.ImportFrom():
                module = "." * node.level + (node.module or "")
                self._names |= {alias.asname or alias.name: f"{module}.{alias.name}" for alias in node.names}
            case ast.Assign(targets=[ast.Name() as target], value=value) | ast.NamedExpr(target=target, value=value):
                assigned[target] = value
            case ast.AnnAssign(target=ast.Name() as target, value=ast.expr() as value):
                assigned[target] = value
            case ast.withitem(context_expr=value, optional_vars=ast.Name() as target):
                assigned[target] = value
            case ast.Name(ctx=ast.Store() | ast.Del()):
                self._bind(node.id, assigned.get(node))
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                self._bind(node.name, None)
            case (
                ast.ExceptHandler(name=str() as name)
                | ast.MatchAs(name=str() as name)
                | ast.MatchStar(name=str() as name)
            ):
                self._bind(name, None)
            case ast.Global() | ast.Nonlocal():
                elsewhere.update(node.names)
            case _:
                pass

    def _bind(self, name: str, value: ast.expr | None) -> None:
        if name not in self._names:
            self._names[name] = value
        elif not isinstance(
            self._names[name], str
        ):  # an import with a replacement for where it fails counts as the import
            self._names[name] = None

    def full_name(self, node: ast.expr, depth: int = 0) -> str:
        """What an expression stands for: ``asyncio.sleep``, or ``httpx.AsyncClient().get``.

        A question mark stands before a name that is not the name of something imported.
        """
        match node:
            case ast.Name():
                name = self._look_up(node.id, depth)
            case ast.Attribute():
                name = f"{self.full_name(node.value, depth)}.{node.attr}"
            case ast.Call():
                name = f"{self.full_name(node.func, depth)}()"
            case _:
                name = "?"
        return SHORTER.get(name, name)

    def _look_up(self, name: str, depth: int) -> str:
        scope: Scope | None = self
        while scope is not None:
            if name in scope._names and (scope is self or not scope._is_class):
                found = scope._names[name]
                if isinstance(found, ast.expr) and depth < MAX_DEPTH:
                    found = scope.full_name(found, depth + 1)
                return found if isinstance(found, str) and not found.startswith("?") else f"?{name}"
            scope = scope._outer
        return name if name in BUILT_IN else f"?{name}"


def body(node: Scoped) -> list[ast.stmt] | list[ast.expr]:
    """What is executed in the scope of this node."""
    return [node.body] if isinstance(node, ast.Lambda) else node.body


def around(node: Function | ast.ClassDef) -> list[ast.expr]:
    """What is evaluated where a function or a class is defined: decorators, defaults, bases."""
    if isinstance(node, ast.ClassDef):
        return [*node.decorator_list, *node.bases, *(keyword.value for keyword in node.keywords)]
    decorators = [] if isinstance(node, ast.Lambda) else node.decorator_list
    return [*decorators, *node.args.defaults, *(default for default in node.args.kw_defaults if default is not None)]


def _parameters(arguments: ast.arguments) -> list[str]:
    named = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    return [argument.arg for argument in (*named, arguments.vararg, arguments.kwarg) if argument is not None]


def _own_nodes(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """All nodes of one scope, without those of the scopes inside it."""
    for node in nodes:
        yield node
        if isinstance(node, Function | ast.ClassDef):
            yield from _own_nodes(around(node))
        else:
            yield from _own_nodes(ast.iter_child_nodes(node))
