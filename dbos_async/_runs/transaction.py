"""A call inside the user's own transaction: it commits with that, and nobody sees it before.

Each call has a savepoint of its own, so an error of dbos_async leaves the transaction as it was. Waiters are woken by the
notification, which Postgres delivers with the commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import asyncpg

from dbos_async._checks import check_loop, kind_of
from dbos_async._database.calls import Result, Row
from dbos_async._database.outages import RETRYABLE
from dbos_async._database.statement import Statement
from dbos_async._database.urls import reason_of
from dbos_async._runs.context import Context, WorkflowContext, check_live
from dbos_async.errors import InvalidArgumentError, WrongPlaceError

if TYPE_CHECKING:
    Connection = asyncpg.Connection[Any] | asyncpg.pool.PoolConnectionProxy[Any]

MAX_RETRIES = 5


async def execute_inside(connection: Any, statement: Statement, rows: Sequence[Row]) -> Result:
    """Execute a statement that commits or vanishes with the transaction that is open on this connection."""
    repeats = 0
    while True:
        try:
            async with connection.transaction():
                result: Result = await connection.fetch(
                    statement.sql.batch,
                    [0] * len(rows),
                    *(list(column) for column in zip(*rows, strict=True)),
                    *(((), ()) if statement.is_ordered else ()),
                )
                return result
        except RETRYABLE:
            repeats += 1
            if repeats > MAX_RETRIES:
                raise
        except (asyncpg.InvalidSchemaNameError, asyncpg.UndefinedTableError, asyncpg.UndefinedFunctionError) as error:
            raise InvalidArgumentError(
                f"The database of connection= has no tables of dbos_async ({error}): "
                "use a connection to the database of the workflows."
            ) from None
        except _UNUSABLE as error:
            raise InvalidArgumentError(
                f"The connection of connection= cannot be used for this call ({reason_of(error)}): use one that does nothing "
                "else meanwhile, in a transaction that has not failed and may write the tables of dbos_async."
            ) from error


_UNUSABLE = (
    asyncpg.InterfaceError,
    asyncpg.InFailedSQLTransactionError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InsufficientPrivilegeError,
)
"""What a statement raises on a connection that is busy or closed, or in a transaction that has failed or may not write this."""


def check_connection(connection: Any, context: Context | None, verb: str) -> None:
    """Raise unless this is a connection with an open transaction, and the verb is not called from the body of a workflow."""
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
