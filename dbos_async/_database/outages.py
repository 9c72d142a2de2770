"""What an error of Postgres or asyncpg means: whether the connection is lost, and whether to repeat the statement."""

from __future__ import annotations

import random

import asyncpg

REFUSED = (
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.QueryCanceledError,
    asyncpg.LockNotAvailableError,
    asyncpg.PostgresIOError,
)
"""The database answered that it cannot do this now: it is read-only, full, or was told to stop. Nothing was committed."""

LOST = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InternalClientError,
    *REFUSED,
)
"""The database cannot be reached, or the connection broke. Unless it refused, the statement may have been committed."""

RETRYABLE = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.UniqueViolationError,
)
"""Another transaction changed the same rows. Nothing was committed, and a retry of the statement sees these changes."""

CONNECT_ERRORS = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What an attempt to connect, and a question over the new connection, can raise."""

TRANSACTION_TIMEOUT = "25P04"
"""The SQLSTATE of an error for which only newer releases of asyncpg have a class."""

FIRST_PAUSE_SECONDS = 0.02
MAX_PAUSE_SECONDS = 1.0


def is_lost(error: BaseException) -> bool:
    """Return whether the database is away or cannot work now; false if the statement itself is wrong."""
    if isinstance(error, asyncpg.InterfaceError):
        # asyncpg uses this family of errors for a closed connection and, as a ValueError, for an argument of a wrong type.
        return not isinstance(error, ValueError)
    return isinstance(error, LOST) or getattr(error, "sqlstate", None) == TRANSACTION_TIMEOUT


def is_refused(error: BaseException) -> bool:
    """Return whether the database answered that it did nothing."""
    return isinstance(error, REFUSED)


def is_usable_after(error: BaseException) -> bool:
    """Return whether the connection that raised this error can be used again."""
    if isinstance(error, asyncpg.InterfaceError):
        return isinstance(error, ValueError)
    if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
        return False  # This server is no longer the primary: connect anew to find the one that is.
    return isinstance(error, asyncpg.PostgresError) and (is_refused(error) or not is_lost(error))


def backoff_seconds(failures: int) -> float:
    """Return how long to pause after this many failures in a row: twice as long each time up to a second, with jitter."""
    return min(FIRST_PAUSE_SECONDS * 2.0 ** min(failures, 6), MAX_PAUSE_SECONDS) * random.uniform(0.5, 1.0)
