"""Judges random programs: plays each, perhaps with crashes, replays it whole, and compares.

A whole replay needs no crash: the end of the workflow is undone in its row, as if it had been cancelled at its last act, and
`resume_workflow` lets an executor claim it. Everything that its acts had recorded is there, and nothing may be added.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NamedTuple

from dbos_async import DBOSClient, SetWorkflowID
from tests.replay.ledger import Said
from tests.replay.maker import Program
from tests.replay.records import Ending, contradictions, differences, read_records

UNDO_END = """
    update dbos_async.workflows set status = 'CANCELLED', output = null, error = null
    where id = $1 and status in ('SUCCESS', 'ERROR')
"""
TAKE_AWAY = """
    update dbos_async.workflows set status = 'CANCELLED', owner = null, attempt = attempt + 1
    where id = $1 and status = 'PENDING'
"""
ENDINGS = """
    select id, status, output::text, error::text from dbos_async.workflows where id = any ($1) and status <> 'PENDING'
"""
STANDS = """
    select s.verb || ' ' || s.key || case when exists (
        select from dbos_async.messages as m
        where m.destination_id = s.workflow_id and m.topic = s.key and m.received_at is null and m.sent_at < now() - interval '5 s'
    ) then ', whose message is there' else '' end
    from dbos_async.steps as s
    where (s.workflow_id = $1 or starts_with(s.workflow_id, $1 || ' ')) and s.completed_at is null
    order by s.started_at
"""
MOVES = """
    select count(*), count(completed_at) from dbos_async.steps where workflow_id = $1 or starts_with(workflow_id, $1 || ' ')
"""
POLL_SECONDS = 0.04

SAME, PARKED, DIFFERENT, STUCK = OUTCOMES = ("same", "parked", "different", "stuck")


class Verdict(NamedTuple):
    """What became of one program."""

    program: Program
    outcome: str
    reasons: list[str]
    crashes: int
    seconds: float


class Judge:
    """Judges programs that executors of one database play. ``pool`` and ``client`` lead to it."""

    def __init__(self, pool: Any, client: DBOSClient, *, patience_seconds: float = 30.0) -> None:
        self._pool, self._client = pool, client
        self.patience_seconds = patience_seconds
        """A program is stuck when none of its workflows has recorded anything for so long."""
        self._awaited: dict[str, asyncio.Future[Ending]] = {}

    async def judge(
        self,
        workflow_id: str,
        program: Program,
        *,
        ran: Callable[[str], list[Said]],
        crashes: Callable[[str], int] = lambda _: 0,
        tamper: Callable[[Any, str], Awaitable[object]] | None = None,
    ) -> Verdict:
        """Play a program under this id and replay it. ``tamper`` may spoil its records between the two."""
        began = time.monotonic()

        def verdict(outcome: str, *reasons: str) -> Verdict:
            return Verdict(program, outcome, list(reasons), crashes(workflow_id), time.monotonic() - began)

        await self.start(workflow_id, program)
        bodies: list[Said] = []
        found = []
        for act in ("ended", "ended in the replay"):
            ending = await self._ending(workflow_id)
            if ending is None:
                return verdict(
                    STUCK,
                    f"it had not {act}, and stood still for {self.patience_seconds:g} s, {await self._stands(workflow_id)}",
                )
            if ending.status == "REPLAY_MISMATCH":
                return verdict(PARKED, str(ending.error))
            found.append(await read_records(self._pool, workflow_id, ending))
            bodies += ran(workflow_id)
            if len(found) == 1:
                if tamper is not None:
                    await tamper(self._pool, workflow_id)
                await self._pool.execute(UNDO_END, workflow_id)
                await self.resume(workflow_id)
        live, replayed = found
        reasons = differences(live, replayed) + contradictions(live, bodies)
        return verdict(DIFFERENT if reasons else SAME, *reasons)

    async def take_away(self, workflow_id: str) -> None:
        """Let a run lose its workflow, as if its executor had died. Whatever it still writes is refused; others go on with it."""
        if (await self._pool.execute(TAKE_AWAY, workflow_id)).endswith(" 1"):
            await self.resume(workflow_id)

    async def start(self, workflow_id: str, program: Program) -> None:
        """Start a program, for an executor to play it."""
        with SetWorkflowID(workflow_id):
            await self._client.start_workflow("random program", program)

    async def resume(self, workflow_id: str) -> None:
        """Let an executor claim a workflow whose end was undone."""
        await self._client.resume_workflow(workflow_id)

    async def ask_to_end(self, workflow_id: str) -> None:
        """Cancel a workflow, with time to clean up."""
        await self._client.cancel_workflow(workflow_id, cleanup_seconds=3600)

    async def cancel(self, workflow_id: str) -> None:
        """Cancel a workflow."""
        await self._client.cancel_workflow(workflow_id)

    async def poll(self) -> None:
        """See which of the programs have ended, until cancelled: one query for all."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            if self._awaited:
                for workflow_id, *ending in await self._pool.fetch(ENDINGS, list(self._awaited)):
                    future = self._awaited.get(workflow_id)
                    if future is not None and not future.done() and ending[0] != "CANCELLED":
                        future.set_result(Ending(*ending))

    async def _ending(self, workflow_id: str) -> Ending | None:
        future: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._awaited[workflow_id] = future
        moves, before = await self._pool.fetch(MOVES, workflow_id), None
        try:
            while moves != before:
                await asyncio.wait([future], timeout=self.patience_seconds)
                if future.done():
                    return future.result()
                moves, before = await self._pool.fetch(MOVES, workflow_id), moves
            return None
        finally:
            del self._awaited[workflow_id]

    async def _stands(self, workflow_id: str) -> str:
        waits = [wait for (wait,) in await self._pool.fetch(STANDS, workflow_id)]
        with suppress(Exception):  # it ended after all
            await self.cancel(workflow_id)
        return f"waiting in {', '.join(waits) or 'no verb'}"
