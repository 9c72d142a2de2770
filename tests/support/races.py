"""Races between two connections, forced by hand: who waits for whom, and what the tables hold afterwards."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.support.eventually import eventually

CLAIM_BY_HAND = "update dbos_async.workflows set attempt = attempt + 1, owner = 'another' where id = 'w'"
TABLES = ("workflows", "steps", "messages", "delayed_messages", "events", "stream_entries")


async def blocked(connection: Any, task: asyncio.Task[Any], watcher: Any) -> None:
    """Return once the task on this connection waits for a lock."""
    backend = connection.get_server_pid()

    async def waits() -> bool:
        assert not task.done(), f"it was to wait, and did not: {task}"
        return bool(await watcher.fetchval("select cardinality(pg_blocking_pids($1)) > 0", backend))

    await eventually(waits, "the statement waits for a lock")


async def everything(connection: Any) -> list[Any]:
    """What stands in all the tables."""
    return [sorted(map(str, await connection.fetch(f"select * from dbos_async.{table}"))) for table in TABLES]


def outcome(answer: list[Any]) -> str:
    return str(answer[0]["outcome"])


async def state(connection: Any) -> tuple[list[Any], list[Any]]:
    """The steps with what they took, and the messages with whether they were received."""
    steps = await connection.fetch(
        "select number, output::text, message_id, completed_at is not null as done from dbos_async.steps "
        "where workflow_id = 'w' order by number"
    )
    messages = await connection.fetch(
        "select payload::text, received_at is not null as received from dbos_async.messages where topic = 't' order by seq"
    )
    return [(row["number"], row["output"], row["done"]) for row in steps], [tuple(row) for row in messages]


LOOKED = """
    select count(*) from pg_stat_activity where query like '%virtualtransaction from pg_locks%' and pid <> pg_backend_pid()
"""
"""Whether a call that waits for writers has looked for them."""
