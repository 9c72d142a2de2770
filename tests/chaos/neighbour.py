"""A second application in the database of the fault suite, in a schema of its own: the same ids, the same role, other workflows.

What the suite does to its own tables must not reach this one, and what happens to the server is survived here, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import count
from typing import Final, TypeVar

from dbos_async import DBOSClient, SetWorkflowID
from tests.chaos.calls import persist
from tests.chaos.facts import Tally
from tests.chaos.ways import Way
from tests.support.processes import running
from tests.support.programs.tenant import WORDS

SCHEMA: Final = "neighbour"
ROLE: Final = "neighbour"
EXECUTORS: Final = 2
SLOWEST_SECONDS: Final = 90.0

T = TypeVar("T")


class Neighbour:
    """Its executors, and a client that gives them something to do."""

    def __init__(self, way: Way, tally: Tally) -> None:
        self._way, self._tally = way, tally
        self._ids: list[str] = []
        self._stack = AsyncExitStack()
        self._client: DBOSClient
        self.ended = 0

    async def open(self) -> None:
        """Start it. Its executors live as long as the campaign."""
        for _ in range(EXECUTORS):
            program = await self._stack.enter_async_context(running("tenant", self._way.url, SCHEMA, *self._way.words))
            await program.says("ready")
        self._client = await self._stack.enter_async_context(
            DBOSClient(self._way.url, **self._way.options, schema=SCHEMA, connect_timeout_seconds=2)
        )

    async def close(self) -> None:
        """End it."""
        await self._stack.aclose()

    def use(self, ids: list[str]) -> None:
        """Have workflows of these ids here, too."""
        self._ids += ids

    async def play(self, is_over: Callable[[], bool]) -> None:
        """Talk to one workflow after the other until it is over; each must hear what was sent to it, in that order, once."""
        for number in count():
            if is_over():
                return
            workflow_id = self._ids.pop() if self._ids else f"neighbour-{number}"
            try:
                async with asyncio.timeout(SLOWEST_SECONDS):
                    heard = await self._talk(workflow_id)
            except TimeoutError:
                self._tally.violations.append(f"W2: workflow {workflow_id!r} of the neighbour has not ended in time.")
                continue
            if heard != [f"{SCHEMA} heard {n}" for n in range(WORDS)]:
                self._tally.violations.append(f"D7: workflow {workflow_id!r} of the neighbour heard {heard}.")
            self.ended += 1
            self._tally.operations["workflow of the neighbour"] += 1

    async def _talk(self, workflow_id: str) -> list[str]:
        async def start() -> None:
            with SetWorkflowID(workflow_id):
                await self._client.start_workflow("tenant, talks")

        async def result() -> list[str]:
            handle = await self._client.retrieve_workflow(workflow_id)
            found: list[str] = await handle.get_result()
            return found

        await self._persist(start)
        for n in range(WORDS):
            await self._persist(
                lambda n=n: self._client.send(workflow_id, str(n), "word", idempotency_key=f"{n}")  # type: ignore[misc]  # it is called at once
            )
        return await self._persist(result)

    async def _persist(self, call: Callable[[], Awaitable[T]]) -> T:
        return await persist(self._tally, call)
