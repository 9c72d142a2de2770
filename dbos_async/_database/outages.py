"""What an error of Postgres or asyncpg means: whose fault it is, and whether to repeat the statement."""

from __future__ import annotations

import enum
import logging
import random
import time

import asyncpg

log = logging.getLogger("dbos_async")

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

VALUE_CLASSES = ("22", "23")
"""The classes of SQLSTATE that concern a value: data exceptions, and constraints that it violates."""

TOO_DEEP = "54001"
"""The SQLSTATE of a value that is nested too deeply."""

FIRST_PAUSE_SECONDS = 0.02
MAX_PAUSE_SECONDS = 1.0


class OutageLog:
    """What the log has said of the present outage: one line when the database is back, whoever of the process sees that first."""

    __slots__ = ("_since",)

    def __init__(self) -> None:
        self._since: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether the log has said that the database is away, and not yet that it is back."""
        return self._since is not None

    def begin(self) -> None:
        """The log has said that the database is away."""
        if self._since is None:
            self._since = time.monotonic()

    def end(self) -> None:
        """The database has answered."""
        if self._since is not None:
            seconds, self._since = time.monotonic() - self._since, None
            log.info("The database is back after %.1f s.", seconds)


class Meaning(enum.Enum):
    """What an error means for the calls of the statement that ended with it."""

    LOST = enum.auto()
    """The database is away. The statement may have been committed."""
    CONFLICT = enum.auto()
    """Another transaction changed the same rows: repeat the statement."""
    VALUE = enum.auto()
    """A value of one call cannot be stored, now or later."""
    LOCKED = enum.auto()
    """Another transaction holds a lock that a call needs."""
    REFUSED = enum.auto()
    """The database does not do this now, for whatever reason. It may do it later."""
    FAULT = enum.auto()
    """Not an error of the database: the call itself is wrong."""


def meaning_of(error: BaseException) -> Meaning:
    """Return what an error means for the calls of the statement."""
    if isinstance(error, RETRYABLE):
        return Meaning.CONFLICT
    if isinstance(error, asyncpg.LockNotAvailableError):
        return Meaning.LOCKED
    if isinstance(error, REFUSED):
        return Meaning.REFUSED
    if is_lost(error):
        return Meaning.LOST
    if isinstance(error, asyncpg.InterfaceError):
        return Meaning.VALUE  # an argument of a wrong type
    if not isinstance(error, asyncpg.PostgresError):
        return Meaning.FAULT
    code = error.sqlstate or ""
    return Meaning.VALUE if code[:2] in VALUE_CLASSES or code == TOO_DEEP else Meaning.REFUSED


def is_lost(error: BaseException) -> bool:
    """Return whether the database is away or cannot work now; false if the statement itself is wrong."""
    if isinstance(error, asyncpg.InterfaceError):
        # asyncpg uses this family of errors for a closed connection and, as a ValueError, for an argument of a wrong type.
        return not isinstance(error, ValueError)
    return isinstance(error, LOST) or getattr(error, "sqlstate", None) == TRANSACTION_TIMEOUT


def is_usable_after(error: BaseException) -> bool:
    """Return whether the connection that raised this error can be used again."""
    meaning = meaning_of(error)
    if meaning is Meaning.REFUSED:
        # A new connection finds the primary if this server is none any more, and has a new session if this one is at fault.
        return isinstance(error, REFUSED) and not isinstance(error, asyncpg.ReadOnlySQLTransactionError)
    return meaning is not Meaning.LOST and isinstance(error, (asyncpg.PostgresError, asyncpg.InterfaceError))


def backoff_seconds(failures: int) -> float:
    """Return how long to pause after this many failures in a row: twice as long each time up to a second, with jitter."""
    return min(FIRST_PAUSE_SECONDS * 2.0 ** min(failures, 6), MAX_PAUSE_SECONDS) * random.uniform(0.5, 1.0)
