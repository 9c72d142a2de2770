"""One process that plays and judges programs, many at a time, in one database."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from dbos_async import DBOS, DBOSClient
from tests.replay import ledger
from tests.replay import workflows as _  # noqa: F401 - registers them
from tests.replay.crashes import Crashes, plan
from tests.replay.judge import Judge, Verdict
from tests.replay.ledger import Said
from tests.replay.maker import Program
from tests.support.boundaries import around_boundaries

AT_ONCE = 40


@dataclass
class Lane:
    """A judge, and the executor of this process that plays for it."""

    judge: Judge
    crashes: Crashes
    most_crashes: int = 0
    tamper: Callable[[Any, str], Awaitable[object]] | None = None
    """Called after a program has ended and before its replay, to spoil its records."""
    _numbers: Iterable[int] = field(default_factory=itertools.count)

    async def play(self, program: Program) -> Verdict:
        """Play one program, crash it where its seed says, and judge it."""
        workflow_id = f"{program['kind']} {program['seed']} {next(iter(self._numbers))}"
        self.crashes.planned[workflow_id] = plan(program, self.most_crashes)
        if "asked_at" in program:
            self.crashes.asked_at[workflow_id] = program["asked_at"]
        return await self.judge.judge(
            workflow_id,
            program,
            ran=self._ran_once if "old_crashes" in program else ledger.read,
            crashes=self.crashes.happened.__getitem__,
            tamper=self.tamper,
        )

    @staticmethod
    def _ran_once(workflow_id: str) -> list[Said]:
        """Nothing: a body that ran with old code and was not recorded need not be what the execution that ended had said."""
        ledger.read(workflow_id)
        return []


@asynccontextmanager
async def judging(url: str, patience_seconds: float) -> AsyncIterator[Judge]:
    """A judge of the programs that executors play in a migrated database."""
    async with (
        asyncpg.create_pool(url, min_size=1, max_size=4) as pool,
        DBOSClient(url) as client,
    ):
        judge = Judge(pool, client, patience_seconds=patience_seconds)
        polls = asyncio.create_task(judge.poll())
        try:
            yield judge
        finally:
            polls.cancel()
            await asyncio.wait([polls])


@asynccontextmanager
async def lane(url: str, *, most_crashes: int = 0, patience_seconds: float = 30.0) -> AsyncIterator[Lane]:
    """A judge and an executor for one migrated database."""
    async with AsyncExitStack() as stack:
        judge = await stack.enter_async_context(judging(url, patience_seconds))
        await stack.enter_async_context(DBOS(url, executor_id="replay", drain_seconds=0.2))
        crashes = Crashes(judge.take_away, judge.ask_to_end)
        stack.push_async_callback(crashes.over)
        stack.enter_context(around_boundaries(crashes.around))
        yield Lane(judge, crashes, most_crashes)


async def side_by_side(
    play: Callable[[Program], Awaitable[Verdict]], programs: Iterable[Program], at_once: int = AT_ONCE
) -> AsyncIterator[Verdict]:
    """The verdicts on all programs as they come, so many programs at a time."""
    left = iter(programs)
    playing = {asyncio.ensure_future(play(program)) for program in itertools.islice(left, at_once)}
    try:
        while playing:
            done, playing = await asyncio.wait(playing, return_when=asyncio.FIRST_COMPLETED)
            playing |= {asyncio.ensure_future(play(program)) for program in itertools.islice(left, len(done))}
            for task in done:
                yield task.result()
    finally:
        for task in playing:
            task.cancel()
        await asyncio.gather(*playing, return_exceptions=True)
