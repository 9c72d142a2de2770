"""One open transaction, on a connection of asyncpg or in a session of SQLAlchemy."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

import asyncpg

from dbos_async._checks import check_loop
from dbos_async._database.database import Database
from dbos_async._database.outages import is_lost
from dbos_async._database.probe import terminated_after
from dbos_async._database.urls import reason_of
from dbos_async._database.user_connections import CLEAN_UP_SECONDS, UserConnection
from dbos_async._runs.transaction import OpenTransaction
from dbos_async.errors import ConfigurationError, TransactionError

CONFLICTS: Final = ("40001", "40P01")
"""A serialization failure and a deadlock: the same transaction may succeed when it is repeated."""

FULL: Final = ("53", "54000", "58")
"""The server has no room or no resources for a commit, for example none for its notifications. That may be over later."""

BREAKS: Final = ("57P01", "57P02", "57P03")
"""The server ends the connection."""


@dataclass(frozen=True, slots=True)
class TransactionOptions:
    """The options of ``@DBOS.transaction(…)``."""

    isolation: str
    read_only: bool
    max_attempts: int
    timeout_seconds: float | None


class Opened(OpenTransaction):
    """A transaction that has begun."""

    raw: asyncpg.Connection[asyncpg.Record]
    """The connection itself, which knows whether it is lost."""

    def __init__(
        self, database: Database, name: str, options: TransactionOptions, source: object, argument: Any
    ) -> None:
        super().__init__(database, name, is_read_only=options.read_only)
        self.isolation, self.source, self.argument = options.isolation, source, argument

    @property
    def is_lost(self) -> bool:
        """Whether the connection is gone, and nobody has closed it on purpose."""
        return self.raw.is_closed() and not getattr(self.raw, "was_closed", False)

    def is_lost_by(self, error: BaseException) -> bool:
        """Whether this error, which the server or the driver has raised, means that the connection is lost."""
        codes = [*_sqlstates(error)]
        return self.is_lost or any(code in BREAKS or code.startswith("08") for code in codes)

    def is_mixed_up_by(self, error: BaseException) -> bool:
        """Whether this error shows that the statements of others came between those of this connection: it is lost, too."""
        return False

    @abstractmethod
    async def finish_body(self) -> None:
        """Send what is left to send. Raises `TransactionError` if the body has ended its transaction."""

    @abstractmethod
    async def commit(self, *, is_checked: bool) -> None:
        """Commit. Raises `TransactionError` if it has failed, which the caller may have checked just before."""

    @abstractmethod
    async def roll_back(self) -> bool:
        """Roll back, and end the connection if that fails. False if the connection turns out to be lost."""

    @abstractmethod
    def leave(self) -> None:
        """Give the connection back, in the background; what is still open is rolled back."""

    @abstractmethod
    def savepoint(self) -> AbstractAsyncContextManager[Any]:
        """A block whose statements are rolled back when it raises."""

    def _give_up(self) -> bool:
        was_lost = self.is_lost
        self.raw.terminate()  # the server rolls back
        return not was_lost

    def _ended(self) -> TransactionError:
        return TransactionError(
            f"The body of the transaction {self.name!r} has ended it by a commit or rollback of its own, or has closed its "
            "connection: leave that to the end of the body, which commits, or raises and rolls back."
        )


class Source(Protocol):
    """Where the transactions of a function come from."""

    async def open(
        self, database: Database, name: str, options: TransactionOptions, within_seconds: float | None
    ) -> Opened:
        """Begin a transaction, as soon as a connection is free. The server has so long to begin it, ``None`` for no limit."""
        ...

    def may_come_back(self, error: Exception) -> bool:
        """Whether this error of `open` may be over when it is tried again."""
        ...


class ConnectionSource:
    """Connections of asyncpg to the database of the workflows."""

    async def open(
        self, database: Database, name: str, options: TransactionOptions, within_seconds: float | None
    ) -> Opened:
        """Begin a transaction on a connection of the pool."""
        connection = await database.user_connections.acquire()
        opened = OpenedConnection(database, name, options, self, connection)
        try:
            with nullcontext() if within_seconds is None else terminated_after(opened.raw, within_seconds):
                await opened.transaction.start()
        except BaseException:
            opened.raw.terminate()  # what it may have begun is of no use
            opened.leave()
            raise
        return opened

    def may_come_back(self, error: Exception) -> bool:
        """This database has been reached before, so whatever it says now may be over later."""
        return isinstance(error, (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError))


class OpenedConnection(Opened):
    """A transaction on a connection of asyncpg."""

    def __init__(
        self, database: Database, name: str, options: TransactionOptions, source: object, connection: Any
    ) -> None:
        super().__init__(database, name, options, source, connection)
        self.raw = connection._con  # the proxy forgets it when the connection is lost
        isolation: Any = options.isolation.replace(" ", "_")
        self.transaction: Any = connection.transaction(isolation=isolation, readonly=options.read_only)

    def is_mixed_up_by(self, error: BaseException) -> bool:
        return self.database.postgres.note_error(cast("UserConnection", self.raw), error)

    async def driver(self) -> Any:
        return self.argument

    async def finish_body(self) -> None:
        if self.raw.is_closed() or not self.raw.is_in_transaction():
            raise self._ended()

    async def commit(self, *, is_checked: bool) -> None:
        if is_checked and isinstance(self.raw, UserConnection):
            await self.raw.commit_and_reset()
            return await self.database.user_connections.release(self.argument)
        await self.transaction.commit()
        if isinstance(self.raw, UserConnection) and self.raw.answer == "ROLLBACK":
            raise swallowed_error()

    async def roll_back(self) -> bool:
        if not self.raw.is_closed() and self.raw.is_in_transaction():
            try:
                await self.transaction.rollback()
            except Exception:
                return self._give_up()
        return not self.is_lost

    def leave(self) -> None:
        self.database.user_connections.give_back(self.argument, self.transaction)

    def savepoint(self) -> AbstractAsyncContextManager[Any]:
        return self.argument.transaction()  # type: ignore[no-any-return]  # of asyncpg


class SessionSource:
    """Sessions of SQLAlchemy, from an ``async_sessionmaker``."""

    def __init__(self, make: Any) -> None:
        self._make = make

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SessionSource) and other._make is self._make

    def __hash__(self) -> int:
        return hash(id(self._make))

    async def open(
        self, database: Database, name: str, options: TransactionOptions, within_seconds: float | None
    ) -> Opened:
        """Begin a transaction in a new session. How long that may take is up to its engine."""
        session = self._make()
        try:
            dialect = session.get_bind().dialect
            if (dialect.name, dialect.driver) != ("postgresql", "asyncpg"):
                raise ConfigurationError(
                    f"The transaction {name!r} gets its sessions from an engine of {dialect.name}+{dialect.driver}: "
                    "use one of postgresql+asyncpg, to the database of the workflows."
                )
            wishes = {"isolation_level": options.isolation.upper(), "postgresql_readonly": options.read_only}
            connection = await session.connection(execution_options=wishes)
            raw = (await connection.get_raw_connection()).driver_connection
            check_loop(
                raw._loop, "The engine of the session has connections of another event loop: make one in this loop."
            )
            return OpenedSession(database, name, options, self, session, connection, raw)
        except BaseException:
            database.user_connections.spawn(_close(session, None))
            raise

    def may_come_back(self, error: Exception) -> bool:
        """The engine is the user's: what it says of a database that does not exist, or of a wrong password, is final."""
        is_full = type(error).__name__ == "TimeoutError" and type(error).__module__.startswith("sqlalchemy")
        return is_full or any(map(is_lost, causes(error)))


class OpenedSession(Opened):
    """The transaction of a session of SQLAlchemy. It begins with the first statement."""

    def __init__(
        self,
        database: Database,
        name: str,
        options: TransactionOptions,
        source: object,
        session: Any,
        connection: Any,
        raw: asyncpg.Connection[asyncpg.Record],
    ) -> None:
        super().__init__(database, name, options, source, session)
        self.raw, self._session, self._connection = raw, session, connection
        self._transaction = session.sync_session.get_transaction()

    @property
    def is_lost(self) -> bool:
        """The pool of the engine may close what the session has given back."""
        return self.raw.is_closed() and not self._connection.closed

    def is_lost_by(self, error: BaseException) -> bool:
        """SQLAlchemy has looked before it gave the connection back."""
        was_lost = any(getattr(each, "connection_invalidated", False) for each in causes(error))
        return was_lost or super().is_lost_by(error)

    async def driver(self) -> Any:
        self._check_goes_on()
        await self._session.flush()  # a message must not overtake what its sender has written
        await self._check_is_open()
        return self.raw

    async def finish_body(self) -> None:
        self._check_goes_on()
        await self._session.flush()
        self._check_goes_on()
        await self._check_is_open()

    async def commit(self, *, is_checked: bool) -> None:
        if not is_checked and self.raw.is_in_transaction():
            try:
                await self.raw.fetchval("select 1")
            except asyncpg.InFailedSQLTransactionError:
                raise swallowed_error() from None
        await self._session.commit()

    async def roll_back(self) -> bool:
        try:
            await self._session.rollback()
        except Exception as error:
            was_lost = self.is_lost_by(error)
            self.raw.terminate()  # the server rolls back
            return not was_lost
        return True

    def leave(self) -> None:
        self.database.user_connections.spawn(_close(self._session, self.raw))

    def savepoint(self) -> AbstractAsyncContextManager[Any]:
        return self._session.begin_nested()  # type: ignore[no-any-return]  # of SQLAlchemy

    def _check_goes_on(self) -> None:
        if self._session.sync_session.get_transaction() is not self._transaction:
            raise self._ended()

    async def _check_is_open(self) -> None:
        """SQLAlchemy begins the transaction with the first statement, and only once: it does not know what SQL has ended."""
        if self.raw.is_closed() or not self.raw.is_in_transaction():
            await self._connection.exec_driver_sql("select 1")  # by which the engine learns that it is closed
            if not self.raw.is_in_transaction():
                raise self._ended()


def swallowed_error() -> TransactionError:
    """The error of a transaction that has failed, although its body has not."""
    return TransactionError(
        "An error of Postgres has ended the transaction, and its body has swallowed that error: let it pass, or write "
        "'async with connection.transaction():' (a SQLAlchemy session: begin_nested()) around what may fail."
    )


async def _close(session: Any, raw: Any) -> None:
    """Close the session, which rolls back what is open and returns its connection to the pool of the engine."""
    try:
        async with asyncio.timeout(CLEAN_UP_SECONDS):
            await session.close()
    except Exception:
        if raw is not None:
            raw.terminate()


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, those that it was raised from or while they were handled, and the members of groups."""
    seen: set[int] = set()
    rest = [error]
    while rest:
        error = rest.pop()
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        yield error
        rest += [error.__cause__, error.__context__, getattr(error, "orig", None)]
        if isinstance(error, BaseExceptionGroup):
            rest += error.exceptions


def is_conflict(error: BaseException) -> bool:
    """Whether the error comes from a serialization failure or a deadlock."""
    return any(code in CONFLICTS for code in _sqlstates(error))


def is_full(error: BaseException) -> bool:
    """Whether a commit has failed, and is rolled back, since the server is full."""
    return any(code.startswith(FULL) for code in _sqlstates(error))


def _sqlstates(error: BaseException) -> Iterator[str]:
    for each in causes(error):
        if isinstance(each, asyncpg.PostgresError):
            yield each.sqlstate or ""


def reason(error: BaseException) -> str:
    """What a log line says of it."""
    return f"{type(error).__name__}: {reason_of(error)}"
