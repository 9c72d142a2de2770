"""What happens to every production database, and hits all executors at once: locks of others, refusals, clocks, full queues."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import TypeAlias

import asyncpg

from tests.chaos.direct import AWAY
from tests.chaos.ground import APPLICATION, SHIFT
from tests.support.postgres import chosen_version

log = logging.getLogger("chaos")

Session: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

KEYS = {
    "dbos_async.workflows": "id",
    "dbos_async.executors": "id",
    "dbos_async.steps": "workflow_id",
    "dbos_async.messages": "destination_id",
    "dbos_async.events": "workflow_id",
    "dbos_async.stream_entries": "workflow_id",
    "dbos_async.delayed_messages": "destination_id",
    "bank.accounts": "id",
    "bank.entries": "transfer",
}
"""Every table that workflows and the bank need, and its column that a refusal may choose by."""

TABLES = list(KEYS)
AS_AN_INDEX_DOES = ("share", "share", "share", "share row exclusive", "exclusive")
ROW_LOCKS = ("update", "update", "no key update", "share", "key share")
CODES = ("54000", "42501", "53100", "55000", "XX000", "P0001", "57014")
OPERATIONS = ("insert", "update", "update", "delete")
SHARES = ("all", "half", "sometimes")
RIGHTS = (
    "update on dbos_async.executors",
    "delete on dbos_async.executors",
    "update on dbos_async.workflows",
    "insert on dbos_async.workflows",
    "insert on dbos_async.steps",
    "update on dbos_async.steps",
    "insert on dbos_async.messages",
    "insert on dbos_async.stream_entries",
    "select on dbos_async.workflows",
    "usage on schema dbos_async",
)

ROWS_OF_WORKFLOWS = """
    select from dbos_async.workflows
    where id = any (array(select id from dbos_async.workflows where status = 'PENDING' order by random() limit {}))
    for {}
"""
ROWS_OF_ACCOUNTS = "select from bank.accounts order by random() limit {} for {}"
ROWS_OF_EXECUTORS = "select from dbos_async.executors order by random() limit {} for {}"

REFUSE = """
    create or replace trigger "{name}" before {operation} on {table}
    for each row execute function chaos.refuse('{code}', '{share}', '{key}')
"""
ALLOW = 'drop trigger if exists "{name}" on {table}'

FILL = "select pg_notify('somebody else', repeat('x', 7000) || n) from generate_series(1, 50) as n"
SMALL_QUEUE = ("max_notify_queue_pages=64",) if chosen_version() >= 17 else ()
"""A setting of the server: a queue of notifications that can be filled. Older servers need gigabytes for that."""

REFUSED = (
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    asyncpg.UndefinedTableError,
    asyncpg.InternalServerError,  # "tuple concurrently updated"
    asyncpg.QueryCanceledError,
    asyncpg.ProgramLimitExceededError,  # no room for the notifications of a commit
)
"""Why a trouble may not come about."""


@dataclass
class Troubles:
    """Each kind of trouble that the whole database can have."""

    url: str
    random: Random
    longest_seconds: float = 30.0
    active: int = 0
    """How many troubles of the whole database are under way."""
    slowing: int = 0
    """How many of them may delay any call: all but open transactions."""
    begun: int = 0
    """How many of those have begun so far."""
    clock_moves: int = 0
    _numbers: int = 0
    _shift: float = 0.0
    _clock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _shape: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Of tables: a trigger that is made is removed under the same name of the table."""
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)

    def kinds(self) -> dict[str, tuple[int, Callable[[], Awaitable[None]]]]:
        """Each kind by its name, with its weight."""
        return {
            "lock a table": (8, self._lock_table),
            "lock a table, exclusively": (3, self._lock_exclusively),
            "lock rows": (8, self._lock_rows),
            "refuse by trigger": (10, self._refuse),
            "move the clock": (6, self._move_clock),
            "revoke a right": (5, self._revoke),
            "rename a table": (3, self._rename),
            **({"fill the notification queue": (4, self._fill_queue)} if SMALL_QUEUE else {}),
        }

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """A session of its own, which goes around every proxy and is gone with the block, whatever it holds."""
        connection = await asyncpg.connect(
            self.url, timeout=10, server_settings={"application_name": "chaos", "lock_timeout": "3000"}
        )
        try:
            yield connection
        finally:
            connection.terminate()
            await asyncio.sleep(0)

    async def surely(self, *statements: str) -> None:
        """Execute these in one transaction, again until it was committed. It queues for no lock: others would queue behind."""
        while True:
            try:
                async with self.session() as session:
                    await session.execute("set lock_timeout = 300")
                    async with session.transaction():
                        for statement in statements:
                            await session.execute(statement)
                return
            except (*AWAY, *REFUSED):
                await asyncio.sleep(self.random.uniform(0.05, 0.3))

    def seconds(self, least: float, most: float) -> float:
        """How long it is to last."""
        return min(self.random.uniform(least, most), self.longest_seconds)

    async def _hold(self, statement: str, seconds: float) -> None:
        try:
            async with self.session() as session:
                await session.execute("begin")
                await session.execute(statement)
                await asyncio.sleep(seconds)
                await session.execute("rollback")
        except (*AWAY, *REFUSED):
            pass  # The server ended it, or somebody else was first.

    async def _recover(self) -> None:
        """Before the next trouble of its kind something must get done."""
        await asyncio.sleep(self.seconds(2, 4))

    async def _lock_table(self) -> None:
        """As ``create index`` does, which writers wait for."""
        table, mode = self.random.choice(TABLES), self.random.choice(AS_AN_INDEX_DOES)
        await self._hold(f"lock table {table} in {mode} mode", self.seconds(1, 12))

    async def _lock_exclusively(self) -> None:
        """As ``vacuum full`` does, which readers wait for, too."""
        table = self.random.choice(TABLES)
        await self._hold(f"lock table {table} in access exclusive mode", self.seconds(0.5, 3))

    async def _lock_rows(self) -> None:
        """Of some workflows, of some executors, or of some accounts."""
        rows = self.random.choice((ROWS_OF_WORKFLOWS, ROWS_OF_WORKFLOWS, ROWS_OF_EXECUTORS, ROWS_OF_ACCOUNTS))
        statement = rows.format(self.random.choice((1, 2, 20)), self.random.choice(ROW_LOCKS))
        await self._hold(statement, self.seconds(1, 12))

    async def _refuse(self) -> None:
        """Have a trigger refuse what is done to a table: for all rows, for half of the ids, or every other time."""
        self._numbers += 1
        table = self.random.choice(TABLES)
        wanted = {
            "name": f"a refusal {self._numbers}", "table": table, "key": KEYS[table],
            "operation": self.random.choice(OPERATIONS), "code": self.random.choice(CODES),
            "share": self.random.choice(SHARES),
        }  # fmt: skip
        async with self._shape:
            await self.surely(REFUSE.format(**wanted))
            await asyncio.sleep(self.seconds(1, self.random.choice((4, 8, 8, 16))))
            await self.surely(ALLOW.format(**wanted))
            await self._recover()

    async def _rename(self) -> None:
        """As somebody does who restores a table from a backup."""
        table = self.random.choice(TABLES)
        name = table.partition(".")[2]
        async with self._shape:
            await self.surely(f"alter table if exists {table} rename to {name}_away")
            await asyncio.sleep(self.seconds(0.5, 4))
            await self.surely(f"alter table if exists {table}_away rename to {name}")
            await self._recover()

    async def _revoke(self) -> None:
        """Take a right from every executor and client, and give it back."""
        right = self.random.choice(RIGHTS)
        async with self._one_at_a_time:
            await self.surely(f"revoke {right} from {APPLICATION}")
            await asyncio.sleep(self.seconds(1, self.random.choice((4, 8, 8, 16))))
            await self.surely(f"grant {right} to {APPLICATION}")
            await self._recover()

    async def _move_clock(self) -> None:
        """Forward for good, or back for a while: a deadline is a time of the server, and must come before the suite gives up."""
        self.clock_moves += 1
        by = self.random.choice((1, 5, 20, 60, 600)) * self.random.uniform(0.5, 1)
        if self.random.random() < 0.5:
            await self._shift_by(by)
        else:
            await self._shift_by(-by)
            await asyncio.sleep(self.seconds(1, 8))
            await self._shift_by(by)
        self.clock_moves += 1

    async def _shift_by(self, seconds: float) -> None:
        async with self._clock:  # A statement that is repeated must not come after a later one.
            self._shift += seconds
            await self.surely(SHIFT.format(self._shift))
            log.info("The server's clock went by %+.0f s and is now ahead by %.0f s.", seconds, self._shift)

    async def _fill_queue(self) -> None:
        """Listen and fall asleep in a transaction: the server can let go of no notification, and the queue gets full."""
        async with self._one_at_a_time:
            try:
                async with self.session() as sleeper, self.session() as sender:
                    await sleeper.execute('listen "somebody else"')
                    await sleeper.execute("begin")
                    await sleeper.execute("select 1")
                    await self._fill(sender)
                    await asyncio.sleep(self.seconds(1, 6))
            except AWAY:
                pass  # With the server its queue is gone.
            await self.surely("select pg_notification_queue_usage()", """select pg_notify('somebody else', '')""")
            await self._recover()

    async def _fill(self, sender: Session) -> None:
        try:
            while True:
                await sender.execute(FILL)
        except asyncpg.ProgramLimitExceededError:
            pass
