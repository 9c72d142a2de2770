"""Finds the workflows of a module, and in them what a replay does not repeat."""

from __future__ import annotations

import ast
import io
import re
import tokenize
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from dbos_async.lint.calls import HAVE_TIME_LIMIT, SETTING, TIMER, TIMERS, why
from dbos_async.lint.names import Scope, Scoped, around, body

MAKE_STEPS: Final = ("step", "run_step")
"""The members of DBOS that make steps of the functions that they are given."""

SILENCE: Final = re.compile(r"#\s*replay:\s*ok\b")


@dataclass(frozen=True, slots=True)
class Finding:
    """A call in a workflow that a replay does not repeat. ``line`` and ``column`` count from 1; as text it is one line."""

    path: str
    line: int
    column: int
    call: str
    workflow: str
    why: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}: {self.call} in workflow {self.workflow!r} {self.why}."


def check_source(source: str, path: str = "<string>") -> list[Finding]:
    """The findings in the text of one module, from top to bottom. ``path`` is what they call it.

    Raises `SyntaxError` or `ValueError` when Python cannot parse the text, and `RecursionError` when it is nested too deeply.
    Example::

        source = "import time\\n@DBOS.workflow()\\nasync def now():\\n    return time.time()\\n"
        (finding,) = check_source(source, "clock.py")
        assert str(finding).startswith("clock.py:4:12: time.time in workflow 'now' gives another time in a replay: use DBOS.now, ")
    """
    source = source.replace("\r\n", "\n").replace("\r", "\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the compiler thinks of the text is for others to tell
        tree = ast.parse(source)
    if "workflow" not in source:
        return []
    finder = _Finder(path, source.split("\n"), _silenced(source))
    finder.visit(tree)
    return sorted(finder.findings, key=lambda finding: (finding.line, finding.column))


def _silenced(source: str) -> set[int]:
    """The lines with a comment that lets their calls pass."""
    if not SILENCE.search(source):
        return set()
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0] for token in tokens if token.type == tokenize.COMMENT and SILENCE.search(token.string)}


class _Finder(ast.NodeVisitor):
    """Goes through one module, and keeps what it finds."""

    def __init__(self, path: str, lines: list[str], silenced: set[int]) -> None:
        self.findings: list[Finding] = []
        self._path, self._lines, self._silenced = path, lines, silenced
        self._scope: Scope | None = None
        self._workflow: str | None = None
        """The workflow in whose frame the code at hand is."""
        self._made_steps: set[str] = set()
        """The functions that this workflow makes steps by a call: ``DBOS.step()(function)``, ``DBOS.run_step("…", function)``."""

    def visit_Module(self, node: ast.Module) -> None:
        self._enter(node, None)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._visit_all(around(node))
        self._enter(node, self._workflow)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._visit_function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._visit_function(node)

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._visit_all(around(node))
        kinds = [self._member_of_dbos(decorator) for decorator in node.decorator_list]
        if "workflow" in kinds:
            self._enter(node, node.name)
        elif "step" in kinds or node.name in self._made_steps:
            self._enter(node, None)
        else:
            self._enter(node, self._workflow)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._visit_all(around(node))
        self._enter(node, self._workflow)

    def visit_Call(self, node: ast.Call) -> None:
        name = self._name(node.func)
        if reason := why(name, node):
            self._report(node, name, reason)
        if name == "asyncio.wait_for" and node.args:
            self._check_timer(node, node.args[0])
        if self._member_of_dbos(node.func) in MAKE_STEPS:  # a lambda becomes a step here
            self._visit_all(child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.Lambda))
        else:
            self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if self._name(node.value) == "os.environ" and isinstance(node.ctx, ast.Load):
            self._report(node, "os.environ", SETTING)
        self.generic_visit(node)

    def visit_With(self, node: ast.With) -> None:
        self._visit_with(node)

    def visit_AsyncWith(self, node: ast.AsyncWith) -> None:
        self._visit_with(node)

    def _visit_with(self, node: ast.With | ast.AsyncWith) -> None:
        match node.body:  # of several calls under one timer none has that time for itself
            case [
                ast.Return(value=ast.Await(value=awaited))
                | ast.Expr(value=ast.Await(value=awaited))
                | ast.Assign(value=ast.Await(value=awaited))
                | ast.AnnAssign(value=ast.Await(value=awaited))
            ]:
                for item in node.items:
                    self._check_timer(item.context_expr, awaited)
            case _:
                pass
        self.generic_visit(node)

    def _check_timer(self, timer: ast.expr, awaited: ast.expr) -> None:
        """Report a timer around nothing but one verb that has a time limit of its own."""
        if isinstance(timer, ast.Call) and isinstance(awaited, ast.Call):
            name, verb = self._name(timer.func), self._member_of_dbos(awaited.func)
            if name in TIMERS and verb in HAVE_TIME_LIMIT:
                self._report(timer, name, TIMER.format(verb=verb))

    def _enter(self, node: Scoped, workflow: str | None) -> None:
        outer = self._scope, self._workflow, self._made_steps
        self._scope, self._workflow = Scope(node, self._scope), workflow
        if workflow is not None and workflow != outer[1]:
            self._made_steps = self._find_made_steps(node)
        self._visit_all(body(node))
        self._scope, self._workflow, self._made_steps = outer

    def _find_made_steps(self, workflow: Scoped) -> set[str]:
        return {
            argument.id
            for node in ast.walk(workflow)
            if isinstance(node, ast.Call) and self._member_of_dbos(node.func) in MAKE_STEPS
            for argument in node.args
            if isinstance(argument, ast.Name)
        }

    def _visit_all(self, nodes: Iterable[ast.AST]) -> None:
        for node in nodes:
            self.visit(node)

    def _name(self, node: ast.expr) -> str:
        assert self._scope is not None
        return self._scope.full_name(node)

    def _member_of_dbos(self, node: ast.expr) -> str | None:
        """``workflow``, ``step``, ``recv`` and so on, of anything called ``DBOS`` that is not of the package ``dbos``."""
        name = self._name(node).replace("()", "")
        owner, _, member = name.rpartition(".")
        is_dbos = owner.lstrip("?").rpartition(".")[2].lower() == "dbos" and name.partition(".")[0] != "dbos"
        return member if is_dbos else None

    def _report(self, node: ast.expr, name: str, reason: str) -> None:
        lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        if self._workflow is None or not self._silenced.isdisjoint(lines):
            return
        before = self._lines[node.lineno - 1].encode()[: node.col_offset]
        column = len(before.decode(errors="replace")) + 1
        self.findings.append(Finding(self._path, node.lineno, column, name.replace("()", ""), self._workflow, reason))
