"""Random programs of `tests.replay`, played by the executors of the fault suite while everything breaks.

Their tasks share logs, queues and locks, and race, cancel and fail each other. Whatever each act is told depends on what its
tasks have seen so far. So a run that takes over and goes another way tells the world something else (W4).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import asyncpg

from dbos_async import DBOSClient
from dbos_async._runs.run import RUNS_OF_ONE
from tests.chaos.calls import persist
from tests.chaos.direct import Direct
from tests.chaos.facts import NOTES, Tally
from tests.replay.judge import SAME, Judge, Verdict
from tests.replay.kinds import EXACT, ORDERED
from tests.replay.ledger import Tail
from tests.replay.maker import Program, make, walk
from tests.replay.records import Ending, contradictions, read_records
from tests.replay.tally import story
from tests.support.eventually import eventually

log = logging.getLogger("chaos")

KINDS = (*EXACT, *ORDERED)
AT_ONCE = 24
PATIENCE_SECONDS = 150.0
"""A program that takes so long is stuck. No fault lasts a tenth of it."""

ATTEMPT = "select attempt from dbos_async.workflows where id = $1"
STATUS = "select status from dbos_async.workflows where id = $1"
ENDING = "select status, output::text, error::text from dbos_async.workflows where id = $1"
GIVEN_BACK = "M4:"
"""How the notes begin that are no violation, since these programs cancel receives."""


class _Pool:
    """What a judge needs of a pool. It waits while the server is away."""

    def __init__(self, direct: Direct) -> None:
        self._direct = direct

    async def fetch(self, sql: str, *arguments: Any) -> list[asyncpg.Record]:
        return await self._direct.fetch(sql, *arguments)

    execute = fetch

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[_Pool]:
        yield self


class _PatientJudge(Judge):
    """A judge that calls again until the database was there."""

    tally: Tally

    async def start(self, workflow_id: str, program: Program) -> None:
        await persist(self.tally, lambda: super(_PatientJudge, self).start(workflow_id, program), limited="start")

    async def resume(self, workflow_id: str) -> None:
        await persist(self.tally, lambda: super(_PatientJudge, self).resume(workflow_id), limited="resume")

    async def cancel(self, workflow_id: str) -> None:
        await persist(self.tally, lambda: super(_PatientJudge, self).cancel(workflow_id), limited="cancel")


class Races:
    """Plays one program after the other, many at a time, and judges each as soon as it has ended."""

    def __init__(self, direct: Direct, bodies: Path, seed: int, tally: Tally) -> None:
        self._direct, self._pool, self._tally = direct, _Pool(direct), tally
        bodies.touch()
        self._bodies = Tail(bodies)
        self._seed = seed
        self._random = Random(f"{seed} races")
        self._takeovers_of: dict[str, int] = {}

    async def play(self, client: DBOSClient, is_over: Callable[[], bool]) -> None:
        """Play until it is over, and wait for the programs that are under way."""
        numbers = itertools.count()
        judge = _PatientJudge(self._pool, client, patience_seconds=PATIENCE_SECONDS)
        judge.tally = self._tally
        polls = asyncio.create_task(judge.poll())

        async def player() -> None:
            while not is_over():
                number = next(numbers)
                await self._play(judge, make(KINDS[number % len(KINDS)], f"{self._seed}/{number}"))

        try:
            await asyncio.gather(*(player() for _ in range(AT_ONCE)))
        finally:
            polls.cancel()
            await asyncio.wait([polls])

    async def _play(self, judge: Judge, program: Program) -> None:
        workflow_id = f"{program['kind']} {program['seed']}"
        torment = asyncio.create_task(
            self._torment(judge, workflow_id) if self._random.random() < 0.1 else asyncio.sleep(0)
        )
        verdict = await judge.judge(
            workflow_id,
            program,
            ran=self._bodies.read,
            crashes=lambda one: self._takeovers_of.pop(one, 0),
            tamper=lambda _, one: self._look(one),
        )
        torment.cancel()
        await asyncio.gather(torment, return_exceptions=True)
        self._note(verdict, workflow_id)

    def _note(self, verdict: Verdict, workflow_id: str) -> None:
        self._tally.programs += 1
        self._tally.takeovers += verdict.crashes
        self._tally.operations["act of a random program"] += sum(1 for _ in walk(verdict.program["body"]))
        if verdict.outcome != SAME:
            log.info("%s", story(verdict))
            self._broken(workflow_id, f"{verdict.outcome} after {verdict.crashes} take-overs", verdict.reasons)

    def _broken(self, workflow_id: str, what: str, reasons: list[str]) -> None:
        self._tally.violations.append(f"W4: program {workflow_id!r} was {what}: " + " | ".join(reasons)[:1000])

    async def _look(self, workflow_id: str) -> None:
        """What the triggers have noted of a program that has ended, before its end is undone."""
        attempt = (await self._direct.fetch(ATTEMPT, workflow_id))[0]["attempt"]
        self._takeovers_of[workflow_id] = attempt % RUNS_OF_ONE - 1
        notes = await self._direct.fetch(NOTES, [workflow_id])
        ends = sum(note["what"] == "status" and note["detail"] == "SUCCESS" for note in notes)
        if ends != 1:
            self._tally.violations.append(f"W3: program {workflow_id!r} ended {ends} times.")
        for note in notes:
            if note["what"] != "status" and not note["what"].startswith(GIVEN_BACK):
                self._tally.violations.append(f"{note['what']} ({workflow_id!r} {note['detail'] or ''}).")

    async def _torment(self, judge: Judge, workflow_id: str) -> None:
        """Cancel a program at some moment and resume it; again, should the cancellation arrive late."""
        await eventually(lambda: self._status(workflow_id), give_up_after_seconds=PATIENCE_SECONDS)
        await asyncio.sleep(self._random.uniform(0, 0.4))
        await judge.cancel(workflow_id)
        self._tally.operations["cancel and resume of a random program"] += 1
        await asyncio.sleep(self._random.uniform(0, 0.4))
        while True:
            if await self._status(workflow_id) == "CANCELLED":
                await judge.resume(workflow_id)
            await asyncio.sleep(1)

    async def _status(self, workflow_id: str) -> str | None:
        rows = await self._direct.fetch(STATUS, workflow_id)
        return rows[0]["status"] if rows else None

    async def check_late_bodies(self) -> None:
        """Judge the steps that ran after their programs had ended, in runs that had lost them."""
        for workflow_id, bodies in self._bodies.read_all().items():
            self._tally.operations["body of a random step that ran late"] += len(bodies)
            ending = Ending(*(await self._direct.fetch(ENDING, workflow_id))[0])
            reasons = contradictions(await read_records(self._pool, workflow_id, ending), bodies)
            if reasons:
                self._broken(workflow_id, "contradicted by a run that had lost it", reasons)
