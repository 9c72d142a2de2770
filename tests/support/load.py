"""Workflows that are busy while a test breaks something, and what it breaks it with."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from dbos_async import DBOS
from dbos_async._database.sql import parse

SLOW = parse("load", "-- name: SLOW (value float8)\nselect n, pg_sleep(value) from :rows").statement(
    "SLOW", parallelism=1
)
OURS = "from pg_stat_activity where datname = current_database() and application_name ~ '^dbos_async( [0-9a-f]{16})?$'"
TERMINATE_ALL = f"select count(pg_terminate_backend(pid)) {OURS}"
BLOCKED = f"select count(*) {OURS} and wait_event_type = 'Lock'"

RAN: Counter[tuple[str | None, int]] = Counter()


@DBOS.step()
async def counted(n: int) -> int:
    RAN[DBOS.workflow_id, n] += 1
    return n


@DBOS.workflow()
async def receive_and_record() -> list[int]:
    """For each message: a step, a value of a stream and an event, until the message ``end``."""
    seen: list[int] = []
    while (n := await DBOS.recv(None, None)) != "end":
        seen.append(n)
        await DBOS.write_stream("s", await counted(n))
        await DBOS.set_event("e", n)
    return seen


@DBOS.workflow()
async def tell(destination_id: str) -> str:
    """Sends as soon as it receives a message."""
    await DBOS.recv("go", None)
    await DBOS.send(destination_id, "told", "guarded")
    return "told"


@DBOS.workflow()
async def run_once(n: int) -> int:
    return await counted(n)


async def load(count: int, trouble: Callable[[], Awaitable[object]]) -> None:
    """Send messages to so many workflows all the time until ``trouble`` is over, then check that each of them took effect once."""
    RAN.clear()
    handles = await asyncio.gather(*(DBOS.start_workflow(receive_and_record) for _ in range(count)))
    ids = [handle.workflow_id for handle in handles]
    troubling = asyncio.ensure_future(trouble())
    rounds = 0
    while not troubling.done() or rounds < 3:
        await asyncio.gather(*(DBOS.send(workflow_id, rounds) for workflow_id in ids))
        rounds += 1
        await asyncio.sleep(0.01)
    await troubling
    await asyncio.gather(*(DBOS.send(workflow_id, "end") for workflow_id in ids))
    for handle in handles:
        assert await handle.get_result() == list(range(rounds))
        assert [n async for n in DBOS.read_stream(handle.workflow_id, "s")] == list(range(rounds))
        assert await DBOS.get_event(handle.workflow_id, "e") == rounds - 1
        status = await handle.get_status()
        assert (status.attempt, status.recoveries) == (1, 0), "nobody was taken for dead"
    assert set(RAN.values()) == {1}, "no step runs twice"
    assert len(RAN) == count * rounds


async def guard(connection: Any, code: str) -> None:
    """Let the database refuse messages of one topic with this error, and count how often it did."""
    await connection.execute(
        "create sequence refusals; "
        "create function refuse() returns trigger language plpgsql as $$ begin "
        f"perform nextval('refusals'); raise exception 'refused on purpose' using errcode = '{code}'; end $$; "
        "create trigger refuse before insert on dbos_async.messages for each row "
        "when (new.topic = 'guarded') execute function refuse()"
    )


async def refused(connection: Any, times: int) -> bool:
    return bool(await connection.fetchval("select is_called and last_value >= $1 from refusals", times))
