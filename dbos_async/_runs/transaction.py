"""A call inside a transaction of the user: it commits with that, and nobody sees it before.

The transaction is that of ``connection=``, or that of the `DBOS.transaction` function whose body makes the call. Each call has a
savepoint of its own, so an error of dbos_async leaves the transaction as it was. Waiters are woken by the notification, which
Postgres delivers with the commit.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NoReturn

import asyncpg

from dbos_async._checks import check_loop, kind_of
from dbos_async._database.calls import Result, Row
from dbos_async._database.database import Database
from dbos_async._database.names import Names
from dbos_async._database.outages import RETRYABLE
from dbos_async._database.statement import Statement
from dbos_async._database.urls import reason_of
from dbos_async._runs.context import Context, StepContext, WorkflowContext, check_live
from dbos_async._runs.run import Run
from dbos_async.errors import InvalidArgumentError, WrongPlaceError

if TYPE_CHECKING:
    Connection = asyncpg.Connection[Any] | asyncpg.pool.PoolConnectionProxy[Any]

MAX_RETRIES = 5


class Level:
    """The body of a transaction, or that of a transaction in it, whose writes are in a savepoint.

    What the tasks of one level do there takes turns: whoever rolls back to a savepoint takes back all that came after it.
    """

    __slots__ = ("is_over", "lock", "of", "outer")

    def __init__(self, of: OpenTransaction, outer: Level | None) -> None:
        self.of, self.outer = of, outer
        self.lock = asyncio.Lock()
        self.is_over = False


class OpenTransaction(ABC):
    """The transaction of a `DBOS.transaction` function, for as long as its body runs."""

    def __init__(self, database: Database, name: str, *, is_read_only: bool) -> None:
        self.database, self.name, self.is_read_only = database, name, is_read_only
        self.is_over = False
        self._level = Level(self, None)

    @property
    def level(self) -> Level:
        """The level of the code that asks: that of the body, or that of a transaction that is a part of this one."""
        level = current_level.get()
        while level is not None and (level.is_over or level.of is not self):
            level = level.outer
        return level or self._level

    @abstractmethod
    async def driver(self) -> Any:
        """The connection of asyncpg, on which the transaction has begun."""


current_transaction: ContextVar[OpenTransaction | None] = ContextVar("dbos_async_transaction", default=None)
"""The transaction whose body runs here. Every task of the body inherits it."""

current_level: ContextVar[Level | None] = ContextVar("dbos_async_transaction_level", default=None)
"""The level of the transaction inside of a transaction whose body runs here."""


def connection_for(database: Database, connection: Any, verb: str) -> Any:
    """The connection that a call was given, or the transaction whose body makes the call; ``None`` outside of transactions."""
    transaction = current_transaction.get()
    if connection is not None or transaction is None or transaction.database is not database:
        return connection
    if transaction.is_over:
        raise WrongPlaceError(
            f"{verb} was called by a task that has outlived the transaction {transaction.name!r}: await the task in its body."
        )
    if transaction.is_read_only:
        raise WrongPlaceError(
            f"{verb} writes, and the transaction {transaction.name!r} is read-only: leave read_only=True out, or call {verb} "
            "outside of it."
        )
    return transaction


def check_may_wait(name: str) -> None:
    """Raise in the body of a transaction: a workflow that is started there begins after the commit."""
    transaction = current_transaction.get()
    if transaction is not None and not transaction.is_over:
        raise WrongPlaceError(
            f"The workflow {name!r} begins after the commit of the transaction {transaction.name!r}, which cannot wait for it: "
            "start it with DBOS.start_workflow, and wait for its result outside of the transaction."
        )


async def execute_inside(names: Names, connection: Any, statement: Statement, rows: Sequence[Row]) -> Result:
    """Execute a statement that commits or vanishes with the transaction that is open on this connection."""
    if isinstance(connection, OpenTransaction):
        async with connection.level.lock:
            driver = await connection.driver()
            return await _execute(names, driver, statement, rows, f"the transaction {connection.name!r}")
    return await _execute(names, connection, statement, rows, "connection=")


async def _execute(names: Names, connection: Any, statement: Statement, rows: Sequence[Row], of: str) -> Result:
    repeats = 0
    while True:
        try:
            async with connection.transaction():
                result: Result = await connection.fetch(
                    names(statement.sql.batch),
                    [0] * len(rows),
                    *(list(column) for column in zip(*rows, strict=True)),
                    *(((), ()) if statement.is_ordered else ()),
                )
                return result
        except RETRYABLE as error:
            repeats += 1
            if repeats > MAX_RETRIES and isinstance(error, asyncpg.UniqueViolationError):
                # Others have stored the same since the snapshot of the transaction: a new one sees that.
                raise asyncpg.SerializationError(f"{error}") from error
            if repeats > MAX_RETRIES:
                raise
        except NO_TABLES as error:
            raise without_tables(of, names, error) from None
        except _UNUSABLE as error:
            raise InvalidArgumentError(
                f"The connection of {of} cannot be used for this call ({reason_of(error)}): use one that does nothing "
                "else meanwhile, in a transaction that has not failed and may write the tables of dbos_async."
            ) from error


NO_TABLES = (asyncpg.InvalidSchemaNameError, asyncpg.UndefinedTableError, asyncpg.UndefinedFunctionError)
"""What a statement raises in a database that has no tables of dbos_async."""


def without_tables(of: str, names: Names, error: Exception) -> InvalidArgumentError:
    """The error of a transaction in such a database."""
    return InvalidArgumentError(
        f"The database of {of} has no tables of dbos_async in the schema {names.schema} ({error}): "
        "use a connection to the database of the workflows."
    )


async def stop_as_lost_inside(run: Run, of: str) -> NoReturn:
    """Stop the run, after the fence has refused a write inside a transaction, unless that is one of another database."""
    if run.stopped is None:
        await run.host.stop_if_not_owner(run)
    if run.stopped is None:
        raise InvalidArgumentError(
            f"The database of {of} is another one than that of the workflows, although it has tables of dbos_async, too: "
            "use a connection to the database of the workflows."
        )
    await run.halt(run.stopped)


_UNUSABLE = (
    asyncpg.InterfaceError,
    asyncpg.InFailedSQLTransactionError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InsufficientPrivilegeError,
)
"""What a statement raises on a connection that is busy or closed, or in a transaction that has failed or may not write this."""


def check_connection(connection: Any, context: Context | None, verb: str) -> None:
    """Raise unless this is a connection with an open transaction, and the verb is not called from the body of a workflow."""
    if isinstance(connection, OpenTransaction):
        if isinstance(context, StepContext):
            check_live(context, verb)
        return
    if not is_connection(connection):
        raise InvalidArgumentError(
            f"connection must be an asyncpg connection and is of type {kind_of(connection)} (of a SQLAlchemy session: "
            "(await (await session.connection()).get_raw_connection()).driver_connection)."
        )
    try:
        is_open = connection.is_in_transaction()
    except asyncpg.InterfaceError as error:  # it is closed, or went back to its pool
        reason = f"{error}".removesuffix(".")
        raise InvalidArgumentError(f"connection cannot be used: {reason}; pass one that is open.") from None
    if not is_open:
        raise InvalidArgumentError(
            "No transaction is open on the connection: write 'async with connection.transaction():' around the call (a SQLAlchemy "
            "session opens one with its first statement), or leave connection= out."
        )
    check_loop(connection._loop, "connection was opened in another event loop: open one in this loop.")
    if isinstance(context, WorkflowContext):
        raise WrongPlaceError(
            f"{verb} with connection= works outside of workflows and in steps, since a step of a workflow that is rolled back "
            "would be lost: call it from a step."
        )
    if context is not None:
        check_live(context, verb)


def is_connection(value: object) -> bool:
    """Whether this is a connection of asyncpg, from a pool or not."""
    return isinstance(value, (asyncpg.Connection, asyncpg.pool.PoolConnectionProxy))
