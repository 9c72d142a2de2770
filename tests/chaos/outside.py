"""Who asks and listens outside of workflows while a wave lasts. Each goes on where it was when the database was away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any

from dbos_async import DBOSClient, RefusedError, StreamOf
from tests.chaos.facts import Watched
from tests.chaos.plan_types import Instruction, Plan
from tests.chaos.questions import QUESTION


class Listeners:
    """The askers of a plan, and some listeners."""

    def __init__(
        self, client: DBOSClient, plan: Plan, watched: Watched, persist: Callable[..., Awaitable[Any]]
    ) -> None:
        self._client, self._plan, self._watched, self._persist = client, plan, watched, persist

    async def listen(self, whom: Sequence[str]) -> None:
        """Ask all questions, and listen to these workflows to their ends."""
        await asyncio.gather(
            *(self._ask(sender) for sender in self._plan.asks),
            *(self._watch(one) for one in whom),
            *(self._merge(whom[n : n + 2]) for n in range(0, len(whom), 2)),
        )

    async def _ask(self, sender: str) -> None:
        for ask in self._plan.asks[sender]:
            self._watched.answers.append(
                (ask, [await self._persist(lambda ask=ask: self._answer(ask)) for _ in range(2)])
            )

    async def _answer(self, ask: Instruction) -> list[Any]:
        try:
            answer = await self._client.ask(
                ask["to"], QUESTION, ask["value"], timeout_seconds=None, idempotency_key=ask["key"]
            )
        except RefusedError as refused:
            return ["refused", refused.reason]
        return ["answer", answer]

    async def _watch(self, one: str) -> None:
        seen = self._watched.versions.setdefault(one, [])

        async def follow() -> None:
            after = seen[-1][1] if seen else 0
            async with aclosing(self._client.watch_event(one, "e", after=after)) as versions:
                async for found in versions:
                    seen.append([found.value["n"], found.version])

        await self._persist(follow)

    async def _merge(self, of: Sequence[str]) -> None:
        places = [(one, key) for one in of for key in ("s0", "s1")]
        seen = self._watched.merged.setdefault(tuple(places), [])

        async def follow() -> None:
            counts = {place: sum(tuple(part[:2]) == place for part in seen) for place in places}
            streams = [StreamOf(one, key, counts[one, key]) for one, key in places]
            async with aclosing(self._client.read_streams(*streams)) as parts:
                async for part in parts:
                    seen.append([part.workflow_id, part.key, part.offset, part.value["n"]])

        await self._persist(follow)
