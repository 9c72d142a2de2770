"""A workflow that lasts: many generations, messages all the while, and an executor that is killed again and again."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from dbos_async import DBOSClient, SendMessage, SetWorkflowID, Topic, WorkflowHandle
from tests.support.eventually import eventually
from tests.support.processes import Program, running

INBOX = Topic("agent inbox", int)
TABLES = ("workflows", "steps", "messages", "events", "stream_entries")


@dataclass
class Lasted:
    """What came of it."""

    result: str = ""
    generation: int = 0
    kills: int = 0
    seconds: float = 0.0
    most_rows: dict[str, int] = field(default_factory=dict)
    """The most rows of each table, without the messages that waited."""
    most_waiting: int = 0
    most_bytes: dict[str, int] = field(default_factory=dict)
    """The most bytes of each table with its indexes."""


async def last(
    url: str, *, messages: int, per_generation: int, kills: int, seconds_between_kills: tuple[float, float],
    most_waiting: int = 2000,
) -> Lasted:  # fmt: skip
    """Send so many messages to one agent while its executor is killed; return when it has ended."""
    lasted, began = Lasted(), time.monotonic()
    connection = await asyncpg.connect(url)
    async with DBOSClient(url, migrate=True) as client:
        with SetWorkflowID("agent"):
            handle: WorkflowHandle[Any] = await client.start_workflow("agent", 1, per_generation, messages)
        sending = asyncio.create_task(_send(client, connection, messages, most_waiting))
        looking = asyncio.create_task(_look(connection, lasted))
        result = asyncio.create_task(handle.get_result())
        try:
            while lasted.kills < kills and not result.done():
                async with running("agent", url) as program:
                    await program.says("ready")
                    await _done_or(result, random.uniform(*seconds_between_kills))
                    if not result.done():
                        await program.end(signal.SIGKILL)
                        lasted.kills += 1
            async with running("agent", url) as program:
                lasted.result = await _while_it_runs(program, result)
            lasted.generation = (await handle.get_status()).generation
        finally:
            for task in (sending, looking, result):
                task.cancel()
            await asyncio.gather(sending, looking, result, return_exceptions=True)
            await connection.close()
    lasted.seconds = time.monotonic() - began
    return lasted


async def _while_it_runs(program: Program, result: asyncio.Task[Any]) -> str:
    ends = asyncio.create_task(program.process.wait())
    await asyncio.wait({ends, result}, return_when=asyncio.FIRST_COMPLETED)
    ends.cancel()
    assert result.done(), f"the executor ended by itself: {program.errors}"
    return str(result.result())


async def _done_or(task: asyncio.Task[Any], seconds: float) -> None:
    await asyncio.wait({task}, timeout=seconds)


async def _send(client: DBOSClient, connection: Any, messages: int, most_waiting: int) -> None:
    """One message after the other, in a few bulks of them now and then, and never far ahead."""
    number = 1
    while number <= messages:
        count = min(random.choice((1, 1, 1, 20)), messages - number + 1)
        await client.send_bulk([SendMessage("agent", each, INBOX) for each in range(number, number + count)])
        number += count
        if number % 500 < count:
            await eventually(lambda: _few_wait(client, most_waiting), give_up_after_seconds=600)


async def _few_wait(client: DBOSClient, most: int) -> bool:
    counts = await client.count_messages()
    return sum(each.waiting for each in counts) < most


async def _look(connection: Any, lasted: Lasted) -> None:
    while True:
        for table in TABLES:
            where = "where received_at is not null" if table == "messages" else ""
            rows = await connection.fetchval(f"select count(*) from dbos_async.{table} {where}")
            size = await connection.fetchval("select pg_total_relation_size($1::regclass)", f"dbos_async.{table}")
            lasted.most_rows[table] = max(rows, lasted.most_rows.get(table, 0))
            lasted.most_bytes[table] = max(size, lasted.most_bytes.get(table, 0))
        waiting = await connection.fetchval("select count(*) from dbos_async.messages where received_at is null")
        lasted.most_waiting = max(waiting, lasted.most_waiting)
        await asyncio.sleep(0.25)
