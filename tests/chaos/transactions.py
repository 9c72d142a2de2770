"""Open transactions of others, which have started ids, used keys or sent to running workflows, and end after seconds."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import asyncpg
from asyncpg.transaction import Transaction

from dbos_async import DBOSClient, DBOSError, SetWorkflowID, Start
from tests.chaos.calls import note_once, open_client, persist
from tests.chaos.direct import AWAY
from tests.chaos.facts import Tally
from tests.chaos.plan_types import Plan, walk
from tests.chaos.troubles import REFUSED, Session, Troubles
from tests.chaos.ways import Way

BESIDE_SECONDS = 3.0
"""A start takes less than this on a busy machine, and a transaction more."""

PATIENCE_SECONDS = 150.0

DRAIN = {"do": "drain", "topic": "trade", "up_to": 1, "how": "recv"}


class Transactions:
    """Sessions that use the library's own verbs in a transaction, and take their time to end it."""

    def __init__(self, troubles: Troubles, way: Way, random: Random, tally: Tally) -> None:
        self.plans: list[Plan] = []
        """The waves that are under way."""
        self._troubles, self._random, self._tally = troubles, random, tally
        self._way = way
        self._numbers = itertools.count()

    def kinds(self) -> dict[str, tuple[int, Callable[[], Awaitable[None]]]]:
        """Each kind by its name, with its weight."""
        return {"open transaction": (7, self._disturb), "open transaction on one id": (5, self._trade)}

    async def _disturb(self) -> None:
        """Start, send and use keys among the workflows of a wave; all of that is rolled back in the end."""
        if not self.plans:
            return
        plan, random = self._random.choice(self.plans), self._random
        children = [
            i["id"] for program in plan.programs.values() for i in walk(program) if i["do"] == "start" and i["id"]
        ]
        messages = [message for calls in plan.outside.values() for call in calls for message in call.messages]
        ids = list(plan.programs)
        async with open_client(self._way, self._tally) as client, self._transaction() as (session, transaction):
            for _ in range(random.randint(1, 4)):
                match random.choice(("start", "send", "key", "key", "later", "send and start")):
                    case "start":
                        with SetWorkflowID(random.choice(children or ids)):
                            await client.start_workflow("chaos", ["never"], connection=session)
                    case "send":
                        await client.send(random.choice(ids), "never", "never", connection=session)
                    case "later":
                        await client.send(random.choice(ids), "never", "never", delay_seconds=0.1, connection=session)
                    case "send and start" if plan.started:
                        one, call = random.choice(list(plan.started)), Start("chaos", ["never"])
                        await client.send(one, "never", "never", start=call, connection=session)
                    case _:
                        message = random.choice(messages)
                        await client.send(
                            message.destination_id, "never", message.topic,
                            idempotency_key=message.idempotency_key, connection=session,
                        )  # fmt: skip
            await asyncio.sleep(self._troubles.seconds(1, 12))
            await transaction.rollback()

    async def _trade(self) -> None:
        """Start an id and send to it with a key, in a transaction, while others do the same; then commit or roll back."""
        one = f"trade {next(self._numbers)}"
        # Its calls last longer than the transaction: what waits behind them is seen to wait.
        async with open_client(self._way, self._tally, connect_timeout_seconds=20.0) as client:
            contest: list[asyncio.Task[Any]] = []
            async with self._transaction() as (session, transaction):
                await self._deal(client, one, session)
                contest.append(asyncio.create_task(persist(self._tally, lambda: self._deal(client, one, None))))
                await self._look_beside(client, one, contest)
                await self._random.choice((transaction.commit, transaction.rollback))()
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await asyncio.gather(*contest)
                    await persist(self._tally, lambda: self._deal(client, one, None))
                    result = await persist(self._tally, lambda: _result(client, one))
            except TimeoutError:
                self._tally.violations.append(f"W10: {one!r} never ended after the transaction that had started it.")
            else:
                if result != [["goods"]]:
                    self._tally.violations.append(f"W1/M3: {one!r} got {result} instead of one message.")

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[tuple[Session, Transaction]]:
        """A session with a transaction that is open; both may be gone before the block ends, for any reason but a mistake here."""
        async with self._troubles.session() as session:
            transaction = session.transaction()
            try:
                await transaction.start()
                yield session, transaction
            except asyncpg.InterfaceError:
                if not session.is_closed():
                    raise
            except (*AWAY, *REFUSED, DBOSError):
                pass

    async def _deal(self, client: DBOSClient, one: str, session: Session | None) -> None:
        with SetWorkflowID(one):
            if session is None:
                await client.start_workflow("chaos", [DRAIN])
            else:
                await client.start_workflow("chaos", [DRAIN], connection=session)
        await client.send(one, "goods", "trade", idempotency_key="key", connection=session)

    async def _look_beside(self, client: DBOSClient, one: str, contest: list[asyncio.Task[Any]]) -> None:
        """Starts of other ids go on."""
        contest += [asyncio.create_task(self._start_other(client, f"{one} beside {n}")) for n in range(8)]
        await asyncio.sleep(self._troubles.seconds(BESIDE_SECONDS + 1, 12))

    async def _start_other(self, client: DBOSClient, name: str) -> None:
        """Start another id. That does not take as long as the transaction, unless the database has other troubles, too."""
        is_calm, begun, began = not self._troubles.slowing, self._troubles.begun, time.monotonic()
        await persist(self._tally, lambda: _start(client, name))
        took = time.monotonic() - began
        if is_calm and begun == self._troubles.begun and took > BESIDE_SECONDS:
            note_once(self._tally, f"W10: the start of {name!r} took {took:.1f} s: it waited for another id.")


async def _start(client: DBOSClient, name: str) -> None:
    with SetWorkflowID(name):
        await client.start_workflow("chaos", [])


async def _result(client: DBOSClient, one: str) -> Any:
    return await (await client.retrieve_workflow(one)).get_result()
