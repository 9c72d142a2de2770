"""A hand-off that comes after its receive was abandoned is not lost (M1, M4)."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from dbos_async import DBOS, DatabaseUnavailableError, SetWorkflowID
from dbos_async._database.change_keys import message_key
from dbos_async._database.connection_kinds import OwnConnection
from dbos_async._executor import launched
from dbos_async._messaging import send as sending
from dbos_async._messaging.handoff import Offer
from tests.conftest import Connect
from tests.support.eventually import eventually
from tests.support.statements import forms

RECEIVES: list[asyncio.Task[Any]] = []
GATES: dict[str, asyncio.Event] = {}


@DBOS.workflow(name="gives up and takes two")
async def gives_up_and_takes_two() -> list[Any]:
    receive = asyncio.create_task(DBOS.recv("t", None))
    RECEIVES.append(receive)
    await asyncio.wait([receive])
    return [receive.cancelled(), await DBOS.recv("t", None), await DBOS.recv("t", None)]


@DBOS.step(name="sends to w")
async def sends_to_w(message: str) -> None:
    await GATES[message].wait()
    await DBOS.send("w", message, "t")


@DBOS.workflow(name="sends to w when asked")
async def sends_when_asked(message: str) -> None:
    await sends_to_w(message)


@pytest.fixture
def polls(monkeypatch: pytest.MonkeyPatch) -> list[Offer]:
    """Gets an entry whenever a receive has polled in vain, and waits on."""
    found: list[Offer] = []
    waits = Offer.waits

    def counted(offer: Offer, subscription: Any) -> None:
        waits(offer, subscription)
        found.append(offer)

    monkeypatch.setattr(Offer, "waits", counted)
    return found


def is_abandoned() -> bool:
    """Whether the first receive was cancelled, and is being cleaned up."""
    return RECEIVES[0].done() and bool(launched.executor().runs["w"].cleanups)


async def test_m1_m4_of_two_late_handoffs_neither_is_lost(
    dbos: DBOS, connection: Any, connect: Connect, polls: list[Offer]
) -> None:
    """The receive is offered to a second sender while the first is stuck, and is abandoned while both are under way."""
    RECEIVES.clear()
    runs = launched.executor().runs
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(gives_up_and_takes_two)
    for message in ("a", "b"):
        GATES[message] = asyncio.Event()
        with SetWorkflowID(message):
            await DBOS.start_workflow(sends_when_asked, message)
    assert (runs["a"].partition - runs["b"].partition) % 2, "neither waits for the other"
    await eventually(lambda: runs["w"].tasks_waiting, "it waits")
    locks: dict[str, Any] = {}

    async def count_blocked(expected: int) -> bool:
        count = "select count(*) from pg_stat_activity where cardinality(pg_blocking_pids(pid)) > 0"
        return bool(await connection.fetchval(count) == expected)

    for message in ("a", "b"):
        locks[message] = await connect()
        await locks[message].execute("begin")
        await locks[message].execute(f"select from dbos_async.workflows where id = '{message}' for no key update")
        GATES[message].set()
        await eventually(lambda: count_blocked(len(locks)), "the send waits for its workflow")
        # The receiver polls in vain, and makes its offer anew.
        polls.clear()
        launched.executor().database.wakeups.wake(message_key("w", "t"))
        await eventually(lambda: polls, "it has polled")
    RECEIVES[0].cancel()
    await eventually(is_abandoned)
    await locks["b"].execute("commit")
    await eventually(lambda: "b" not in runs)
    assert is_abandoned(), "the clean-up waits for the first sender"
    await locks["a"].execute("commit")
    async with asyncio.timeout(10):
        assert await handle.get_result() == [True, "b", "a"]


@pytest.mark.parametrize("answer_comes", [True, False])
async def test_m1_m4_what_a_sender_that_gave_up_has_delivered_goes_back(
    database_url: str, connection: Any, monkeypatch: pytest.MonkeyPatch, answer_comes: bool
) -> None:
    """The sender is told that its message may have been stored. It was, and the receive that has it was abandoned."""
    RECEIVES.clear()
    gave_up = asyncio.Event()
    fetch = OwnConnection.fetch
    delivered: list[bool] = []

    async def answers_late(self: Any, sql: str, *args: Any) -> Any:
        answer = await fetch(self, sql, *args)
        if sql == forms(sending.SEND)["new, alone"] and not delivered:
            delivered.append(answer[0]["delivered"])
            await gave_up.wait()
            RECEIVES[0].cancel()
            await eventually(is_abandoned)
            if not answer_comes:
                raise asyncpg.ConnectionDoesNotExistError("the connection was lost behind the commit")
        return answer

    monkeypatch.setattr(OwnConnection, "fetch", answers_late)
    async with DBOS(database_url, connect_timeout_seconds=1):
        with SetWorkflowID("w"):
            handle = await DBOS.start_workflow(gives_up_and_takes_two)
        await eventually(lambda: launched.executor().runs["w"].tasks_waiting, "it waits")
        with pytest.raises(DatabaseUnavailableError, match="may or may not have been committed"):
            await DBOS.send("w", "a", "t")
        gave_up.set()
        await DBOS.send("w", "b", "t")
        async with asyncio.timeout(10):
            assert await handle.get_result() == [True, "a", "b"]
        assert delivered == [True]
