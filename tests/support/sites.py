"""Examples as web servers: real processes that can be killed and started again on the same port, and real browsers."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support.eventually import eventually

ROOT = Path(__file__).parent.parent.parent

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Site:
    """An example of examples/, served. What it prints is kept over all its lives."""

    def __init__(self, example: str, folder: Path, environment: dict[str, str]) -> None:
        self._example = ROOT / "examples" / example
        self._folder = folder
        self._environment = os.environ | {"PYTHONPATH": str(ROOT), "APP_SECRET": "of this test"} | environment
        with socket.socket() as place:
            place.bind(("127.0.0.1", 0))
            self._port = place.getsockname()[1]
        self.address = f"http://127.0.0.1:{self._port}"
        self._process: asyncio.subprocess.Process | None = None
        self._output = folder / "output"

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._output.read_text()

    @property
    def effects(self) -> list[str]:
        """The lines that show a side effect."""
        return [line for line in self.output.splitlines() if "✱" in line]

    async def start(self) -> None:
        """Start it, and return when it answers."""
        with self._output.open("a") as output:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-W", "error", self._example, str(self._port),
                cwd=self._folder, env=self._environment, stdout=output, stderr=output,
            )  # fmt: skip
        await eventually(self._answers, f"{self._example.name} answers")

    async def kill(self) -> None:
        """End it as a power cut would."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """End it in good order."""
        assert await self._end(signal.SIGTERM) in (0, -signal.SIGTERM), self.output

    async def _end(self, number: int) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        async with asyncio.timeout(30):
            return await self._process.wait()

    async def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.returncode is None, self.output
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._port)  # it listens once it is launched
        except OSError:
            return False
        writer.close()
        await writer.wait_closed()
        return True

    async def leave(self) -> None:
        """Let nothing run on."""
        if self._process is not None and self._process.returncode is None:
            await self.kill()


@asynccontextmanager
async def served(example: str, folder: Path, url: str, **environment: str) -> AsyncIterator[Site]:
    """Serve an example on a database until the end of the block."""
    site = Site(example, folder, {"DBOS_DATABASE_URL": url} | environment)
    try:
        await site.start()
        yield site
    finally:
        await site.leave()


@asynccontextmanager
async def chromium() -> AsyncIterator[Any]:
    """A headless Chromium, as Playwright's ``Browser``."""
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            await browser.close()
