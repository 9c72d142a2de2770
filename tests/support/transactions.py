"""Transactional steps of both kinds, with a connection of asyncpg or a session of SQLAlchemy, for tests that run with either."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from dbos_async import DBOS, TransactionFunction

SESSIONS = async_sessionmaker()
"""The sessions of all transactions of this kind; a test binds it to an engine of its database."""

AGAIN = """
    update dbos_async.workflows
    set status = 'PENDING', owner = null, output = null, error = null, ended_at = null where id = $1
"""
"""Undoes the end of a workflow, so that an executor replays it."""

TAKE_OVER = "update dbos_async.workflows set attempt = attempt + 1, owner = 'another' where id = $1"
"""What a claim by another executor does to the fence."""


def engine_of(url: str) -> AsyncEngine:
    """An engine for this URL."""
    return create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"))


async def say(target: Any, sql: str) -> Any:
    """Execute a statement; the first value of its first row, if it has one."""
    if not isinstance(target, AsyncSession):
        return await target.fetchval(sql)
    result: Any = await target.execute(sqlalchemy.text(sql))
    row = result.first() if result.returns_rows else None
    return None if row is None else row[0]


class Kind:
    """One kind of transactional steps."""

    def __init__(self, name: str) -> None:
        self.name = name

    def transaction(self, **options: Any) -> Callable[[Any], TransactionFunction[..., Any]]:
        """The decorator."""
        return DBOS.transaction(SESSIONS, **options) if self.name == "sqlalchemy" else DBOS.transaction(**options)

    @staticmethod
    async def backend(target: Any) -> int:
        """The id of the server process of this connection."""
        return int(await say(target, "select pg_backend_pid()"))


async def written(connection: Any) -> list[str]:
    """What stands in the table of the fixture `notes`."""
    return [row["what"] for row in await connection.fetch("select what from notes order by what")]


async def replay(connection: Any, workflow_id: str) -> Any:
    """The result of the workflow, which has ended, when it is replayed."""
    await connection.execute(AGAIN, workflow_id)
    await DBOS.resume_workflow(workflow_id)  # wakes an executor
    return await (await DBOS.retrieve_workflow(workflow_id)).get_result()
