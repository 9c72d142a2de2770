"""Programs that are played by processes which kill themselves again and again, each at a random boundary."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

from tests.replay.crashes import MODES
from tests.replay.judge import Judge, Verdict
from tests.replay.lane import AT_ONCE, judging
from tests.replay.ledger import Said, read_file
from tests.replay.maker import Program
from tests.support.processes import ROOT

LIVES = (3, 100, 170, 170)
"""A process dies after one of these numbers of steps for each program that it plays, at most. Replayed steps count, so short
lives end within a replay, and only long ones get anywhere."""


class Killing:
    """A judge, and one process after the other that plays for it."""

    def __init__(self, judge: Judge, url: str, folder: Path, seed: str, options: list[str]) -> None:
        self.judge = judge
        self.deaths = 0
        self.surprises: list[str] = []
        """What processes wrote that did not end by their own kill."""
        self._url, self._folder, self._options = url, folder, options
        self._chance = Random(f"{seed} deaths")
        self._numbers = itertools.count()

    async def play(self, program: Program) -> Verdict:
        """Play one program, and judge it."""
        before = self.deaths
        return await self.judge.judge(
            f"{program['kind']} {program['seed']} {next(self._numbers)}",
            program,
            ran=self._ran,
            crashes=lambda _: self.deaths - before,
        )

    def _ran(self, workflow_id: str) -> list[Said]:
        return read_file(self._folder / "ledger").get(workflow_id, [])

    async def keep_killing(self) -> None:
        """Have always one process that plays, until cancelled. Each dies at some step."""
        while True:
            longest = self._chance.choice(LIVES) * AT_ONCE
            death = self._chance.choice(MODES), str(self._chance.randint(1, longest))
            with (self._folder / "errors").open("w") as errors:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "tests.replay.executor", self._url, str(self._folder / "ledger"), *death,
                    *self._options, cwd=ROOT, stderr=errors, stdout=subprocess.DEVNULL,
                    env=os.environ | {"PYTHONPATH": str(ROOT)},
                )  # fmt: skip
            try:
                code = await process.wait()
            except asyncio.CancelledError:
                process.kill()
                await process.wait()
                raise
            self.deaths += 1
            if code != -signal.SIGKILL:
                self.surprises.append((self._folder / "errors").read_text())
                return


@asynccontextmanager
async def killing(url: str, seed: str, patience_seconds: float, options: list[str]) -> AsyncIterator[Killing]:
    """A judge, and processes that die again and again, for one migrated database."""
    with tempfile.TemporaryDirectory(prefix="dbos-replay-") as folder:
        async with judging(url, patience_seconds) as judge:
            killer = Killing(judge, url, Path(folder), seed, options)
            kills = asyncio.create_task(killer.keep_killing())
            try:
                yield killer
            finally:
                kills.cancel()
                await asyncio.wait([kills])
