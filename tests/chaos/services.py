"""Whether every executor's background services work after all the trouble (W10): each shows it while the others stand still."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager

from dbos_async import DBOSClient, SetWorkflowID, SetWorkflowTimeout
from tests.chaos.calls import persist
from tests.chaos.direct import Direct
from tests.chaos.executor import Executor
from tests.chaos.facts import Tally
from tests.chaos.liveness import STRANDED_AFTER_SECONDS, Liveness
from tests.chaos.nemesis import Nemesis

STANDSTILL_SECONDS = 6.0
"""Less than a lease: nobody is reaped for it."""

WAITER = [{"do": "drain", "topic": "never", "up_to": 1, "how": "recv"}]
STATUSES = "select id, status from dbos_async.workflows where id = any ($1)"
MISSING = "select count(*) from dbos_async.executors where executor_id = $1"


class Services:
    """Looks at executors that nothing bad happens to any more."""

    def __init__(
        self, executors: Sequence[Executor], nemesis: Nemesis, liveness: Liveness, direct: Direct, tally: Tally
    ) -> None:
        self._executors, self._nemesis, self._liveness = executors, nemesis, liveness
        self._direct, self._tally = direct, tally
        self._numbers = itertools.count()

    async def check(self, client: DBOSClient) -> None:
        """Nothing may be stranded in the end, every executor be known, claim, and cancel what is due."""
        await self._check_stranded()
        for executor in self._executors:
            give_up_at = time.monotonic() + STRANDED_AFTER_SECONDS
            while missing := await self._try_alone(executor, client):
                if time.monotonic() > give_up_at:
                    self._tally.violations.append(
                        f"W10: for {STRANDED_AFTER_SECONDS:.0f} s after all trouble {executor.name} {missing}."
                    )
                    break
                await asyncio.sleep(1)

    async def _check_stranded(self) -> None:
        give_up_at = time.monotonic() + STRANDED_AFTER_SECONDS
        while stranded := await self._liveness.look():
            if time.monotonic() > give_up_at:
                for one, what in list(stranded.items())[:8]:
                    self._tally.violations.append(f"W10: 30 s after all trouble workflow {one!r} {what}.")
                return
            await asyncio.sleep(0.5)

    async def _try_alone(self, executor: Executor, client: DBOSClient) -> str:
        """What this executor did not do while it was the only one; empty when it did everything."""
        if not (await self._direct.fetch(MISSING, executor.name))[0]["count"]:
            return "was no executor"
        number = next(self._numbers)
        quick, due = f"service {number} of {executor.name}", f"service {number} of {executor.name}, due"
        async with self._others_stand_still(executor):
            ends_at = time.monotonic() + STANDSTILL_SECONDS
            await persist(self._tally, lambda: _start(client, quick, due))
            while time.monotonic() < ends_at:
                rows = await self._direct.fetch(STATUSES, [quick, due])
                found = {row["id"]: row["status"] for row in rows}
                if found == {quick: "SUCCESS", due: "CANCELLED"}:
                    return ""
                await asyncio.sleep(0.1)
        return f"left a workflow {found.get(quick)}, and one at its deadline {found.get(due)}"

    @asynccontextmanager
    async def _others_stand_still(self, executor: Executor) -> AsyncIterator[None]:
        others = [other for other in self._executors if other is not executor]
        with ExitStack() as stack:
            for other in others:
                stack.enter_context(self._nemesis.absences.silent(other.name))
                other.signal(signal.SIGSTOP)
                stack.callback(other.signal, signal.SIGCONT)
            yield


async def _start(client: DBOSClient, quick: str, due: str) -> None:
    with SetWorkflowID(quick):
        await client.start_workflow("chaos", [])
    with SetWorkflowID(due), SetWorkflowTimeout(0.5):
        await client.start_workflow("chaos", WAITER)
