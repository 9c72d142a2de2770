"""Drives the bank of the fault suite, and has its books checked all the time."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

from dbos_async import DBOSClient, SetWorkflowID
from tests.chaos.bank import ACCOUNTS, CLOSE, TELLERS, Transfer
from tests.chaos.bank_checks import ClerkCheck, check_accounts, check_books
from tests.chaos.calls import persist
from tests.chaos.direct import Direct
from tests.chaos.facts import Tally
from tests.support.eventually import eventually

log = logging.getLogger("chaos")

CLERKS = 8
PATIENCE_SECONDS = 150.0
LOOK_EVERY_SECONDS = 2.0
HOW = ("asyncpg", "asyncpg", "sqlalchemy", "sqlalchemy", "repeatable read", "serializable", "one commit", "fails")
STATUS = "select status from dbos_async.workflows where id = $1"
UNENDED = (
    "select count(*) from dbos_async.workflows where name = any ('{bank teller,bank receipt}') and status = 'PENDING'"
)


def make_transfers(seed: int, one: str) -> list[Transfer]:
    """What a clerk is to do; the same for the same arguments."""
    random = Random(f"{seed}/{one}")
    return [
        {
            "id": f"{one}/{number}",
            "source": (source := random.randrange(ACCOUNTS)),
            "target": (source + random.randrange(1, ACCOUNTS)) % ACCOUNTS,
            "cents": random.randint(1, 200),
            "how": random.choice(HOW),
        }
        for number in range(random.randint(2, 8))
    ]


class Bank:
    """Some clerks at a time, and the tellers."""

    def __init__(self, direct: Direct, seed: int, tally: Tally) -> None:
        self.transfers: dict[str, Transfer] = {}
        self._direct, self._seed, self._tally = direct, seed, tally
        self._random = Random(f"{seed} bank")

    async def trade(self, client: DBOSClient, is_over: Callable[[], bool]) -> None:
        """Let clerks work until it is over; then close, and check everything."""
        for number in range(TELLERS):
            await self._start(client, f"teller {number}", "bank teller", 0)
        looking = asyncio.create_task(self._look(), name="bank")
        numbers = itertools.count()

        async def work() -> None:
            while not is_over():
                await self._clerk(client, f"clerk {next(numbers)}")

        try:
            await asyncio.gather(*(work() for _ in range(CLERKS)))
            await self._close(client)
        finally:
            looking.cancel()
            await asyncio.wait([looking])

    async def _look(self) -> None:
        while True:
            self._note(await check_accounts(self._direct))
            await asyncio.sleep(LOOK_EVERY_SECONDS)

    def _note(self, violations: list[str]) -> None:
        self._tally.violations += [each for each in violations if each not in self._tally.violations]

    async def _clerk(self, client: DBOSClient, one: str) -> None:
        transfers = make_transfers(self._seed, one)
        self.transfers |= {transfer["id"]: transfer for transfer in transfers}
        await self._start(client, one, "bank clerk", transfers)
        if self._random.random() < 0.1:
            await asyncio.sleep(self._random.uniform(0, 1))
            await persist(self._tally, lambda: client.cancel_workflow(one), limited="cancel")
            self._tally.operations["cancel and resume of a clerk"] += 1
        if not await self._has_ended(client, one):
            return self._note([f"T1: clerk {one!r} has not ended: what it waits for has not come."])
        check = ClerkCheck(self._direct, one, transfers)
        await check.check()
        self._note(check.violations)
        self._tally.operations += check.operations
        self._tally.operations["clerk"] += 1

    async def _has_ended(self, client: DBOSClient, one: str) -> bool:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + PATIENCE_SECONDS
        while loop.time() < give_up_at:
            status = (await self._direct.fetch(STATUS, one))[0]["status"]
            if status not in ("PENDING", "CANCELLED"):
                return True
            if status == "CANCELLED":  # Again, should the cancellation arrive late.
                await persist(self._tally, lambda: client.resume_workflow(one), limited="resume")
            await asyncio.sleep(0.2)
        return False

    async def _start(self, client: DBOSClient, one: str, name: str, *arguments: Any) -> None:
        async def start() -> None:
            with SetWorkflowID(one):
                await client.start_workflow(name, *arguments)

        await persist(self._tally, start, limited="start")

    async def _close(self, client: DBOSClient) -> None:
        """Whoever waits in front of a teller is served first."""
        for number in range(TELLERS):
            one = f"teller {number}"
            await persist(self._tally, lambda one=one: client.send(one, CLOSE, "deposits", idempotency_key=CLOSE))  # type: ignore[misc]  # it is called at once
        with suppress(AssertionError):
            await eventually(self._have_all_ended, give_up_after_seconds=PATIENCE_SECONDS)
        if left := await self._left():
            self._note([f"T1: {left} tellers and receipts have not ended."])
        violations, operations = await check_books(self._direct, self.transfers)
        self._note(violations)
        self._tally.operations += operations

    async def _have_all_ended(self) -> bool:
        return await self._left() == 0

    async def _left(self) -> int:
        return int((await self._direct.fetch(UNENDED))[0]["count"])
