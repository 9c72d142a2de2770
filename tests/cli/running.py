"""Runs commands of ``dbos-async``: in this process by typer's runner, beside the event loop, and as processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from dbos_async.cli import app

ROOT = Path(__file__).parent.parent.parent

Command = Callable[..., Awaitable["Done"]]


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON document that it printed."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        """The lines of its standard output."""
        return self.out.splitlines()

    def check(self, code: int, *sentences: str) -> Done:
        """It ended with this code, and its errors are these: each is one sentence on one line."""
        assert self.code == code, self
        for sentence in sentences:
            assert sentence in self.err, self
        assert "Traceback" not in self.err, self
        return self


def run(url: str | None, *arguments: str, stdin: str | None = None, columns: int | None = None) -> Done:
    """Run one command in this thread."""
    environment = {"DBOS_DATABASE_URL": url, "COLUMNS": None if columns is None else str(columns), "NO_COLOR": "1"}
    done = CliRunner().invoke(app, list(arguments), input=stdin, env=environment)
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    return Done(done.exit_code, done.stdout, done.stderr)


def command_of(url: str) -> Command:
    """Runs commands on this database in a thread, so that workflows go on meanwhile."""

    async def command(*arguments: str, stdin: str | None = None, columns: int | None = None) -> Done:
        return await asyncio.to_thread(run, url, *arguments, stdin=stdin, columns=columns)

    return command


def process(url: str | None, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Start a command as a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name not in ("DBOS_DATABASE_URL", "COLUMNS")}
    environment |= {"PYTHONPATH": str(ROOT), **({} if url is None else {"DBOS_DATABASE_URL": url})}
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [sys.executable, "-m", "dbos_async", *arguments],
        text=True, **(pipes | {"env": environment} | options),
    )  # fmt: skip


def cells(text: str) -> int:
    """The widest line, in cells of a terminal."""
    from rich.cells import cell_len

    return max(map(cell_len, text.splitlines()), default=0)
