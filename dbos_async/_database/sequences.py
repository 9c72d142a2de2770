"""Sequences that are behind their tables, as after a move that carries only the rows: found at launch and repaired.

What comes after such a move would count as older than what was there: an event would keep its old value, a message would overtake
those that wait.
"""

from __future__ import annotations

import logging
from typing import Final

import asyncpg

from dbos_async._database.names import Names
from dbos_async._database.sql import load
from dbos_async.errors import ConfigurationError

log = logging.getLogger("dbos_async")

with load(__name__) as sql:
    FIND_BEHIND: Final = sql.statement("FIND_BEHIND")
    REPAIR: Final = sql.statement("REPAIR")

PAGES: Final = 20
"""How many pages at the end of each table are looked at, and how many elsewhere in it."""

MARGIN: Final = 1_000_000
"""So many numbers are left out, since others may draw some while a sequence is set."""

LOCK: Final = "select pg_advisory_xact_lock(hashtextextended('dbos_async sequences', 0))"

UNLIMITED: Final = "set local lock_timeout = 0; set local statement_timeout = 0"
"""A repair reads whole tables, and waits for another one."""


async def repair(connection: asyncpg.Connection[asyncpg.Record], names: Names | None = None) -> None:
    """Set the sequences that are behind their tables forward, never back. Any number of processes may do this at once.

    Raises `ConfigurationError` if this role draws from such a sequence and may not set it.
    """
    if await connection.fetchval("select current_setting('transaction_read_only') = 'on'"):
        return  # nothing is drawn here
    behind = [row for row in await connection.fetch(FIND_BEHIND.sql.one_row, 0, PAGES) if row["may_draw"]]
    for row in behind:
        if not row["may_set"]:
            raise ConfigurationError(
                f"The sequence {row['name']} is at {row['at']} and its table at {row['found']}, as after a move without sequences, "
                f"and this role may not set it: run 'dbos-async migrate <url>{names.options if names else ''}' as the owner of the "
                "tables."
            )
    if not behind:
        return
    async with connection.transaction(isolation="read_committed"):
        await connection.execute(UNLIMITED)
        await connection.execute(LOCK)
        for row in behind:
            for repaired in await connection.fetch(REPAIR.sql.one_row, 0, row["name"], MARGIN):
                log.warning(
                    "The sequence %s was at %s and its table at %s, as after a move without sequences: it is set to %s. Executors "
                    "of the database that these tables come from must not run any more.",
                    row["name"], row["at"], repaired["found"], repaired["set_to"],
                )  # fmt: skip
