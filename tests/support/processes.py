"""Programs of tests/support/programs as processes of their own: started, waited for, and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


class Program:
    """A running program. What it writes to standard error is kept in a file."""

    def __init__(self, process: asyncio.subprocess.Process, stderr: Path) -> None:
        self.process = process
        self._stderr = stderr

    @property
    def errors(self) -> str:
        """What it has written to standard error so far."""
        return self._stderr.read_text()

    async def says(self, line: str, *, give_up_after_seconds: float = 30.0) -> None:
        """Wait for the next line of its standard output, which must be this one."""
        assert self.process.stdout is not None
        async with asyncio.timeout(give_up_after_seconds):
            line_read = (await self.process.stdout.readline()).decode().strip()
        assert line_read == line, f"it printed {line_read!r} instead of {line!r}\n{self.errors}"

    async def end(self, number: int = signal.SIGTERM, *, give_up_after_seconds: float = 30.0) -> int:
        """Send it a signal, and wait for its exit code."""
        self.process.send_signal(number)
        return await self.code(give_up_after_seconds=give_up_after_seconds)

    async def code(self, *, give_up_after_seconds: float = 30.0) -> int:
        """Wait for its exit code."""
        async with asyncio.timeout(give_up_after_seconds):
            return await self.process.wait()


@asynccontextmanager
async def running(
    module: str, *arguments: object, options: tuple[str, ...] = (), folder: Path = ROOT, **environment: str
) -> AsyncIterator[Program]:
    """Run ``python -m tests.support.programs.MODULE ARGUMENTS``; kill it at the end of the block if it still runs."""
    with tempfile.TemporaryDirectory(prefix="dbos-program-") as place:
        stderr = Path(place) / "stderr"
        with stderr.open("w") as file:
            process = await asyncio.create_subprocess_exec(
                sys.executable, *options, "-m", f"tests.support.programs.{module}", *map(str, arguments),
                cwd=folder, stdout=subprocess.PIPE, stderr=file,
                env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
            )  # fmt: skip
        try:
            yield Program(process, stderr)
        finally:
            if process.returncode is None:
                process.kill()
            # Reads what is left, so that the pipe is closed, too.
            await process.communicate()


async def holder(url: str, count: int) -> asyncio.subprocess.Process:
    """A process that owns three times so many workflows."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.programs.hold", url, str(count), cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    return process
