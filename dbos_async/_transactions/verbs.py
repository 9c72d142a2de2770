"""The decorator ``DBOS.transaction``, with its checks."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, overload

from dbos_async._checks import check_flag, check_int, check_optional_key, check_seconds, kind_of
from dbos_async._transactions.functions import ISOLATIONS, TransactionDecorator
from dbos_async._transactions.opened import ConnectionSource, SessionSource, Source, TransactionOptions
from dbos_async.errors import InvalidArgumentError

if TYPE_CHECKING:
    import asyncpg

Isolation = Literal["read committed", "repeatable read", "serializable"]


class AsyncSession(Protocol):
    """What a transaction needs of the sessions of SQLAlchemy."""

    def flush(self) -> Awaitable[Any]:
        """Send what was added."""
        ...

    def commit(self) -> Awaitable[Any]:
        """Commit."""
        ...

    def rollback(self) -> Awaitable[Any]:
        """Roll back."""
        ...


S_co = TypeVar("S_co", bound=AsyncSession, covariant=True)
S = TypeVar("S", bound=AsyncSession)


class SessionMaker(Protocol[S_co]):
    """An ``async_sessionmaker`` of SQLAlchemy."""

    def __call__(self) -> S_co:
        """A new session."""
        ...


class TransactionVerbs:
    """What `DBOS` has for transactions."""

    @overload
    def transaction(
        self,
        sessions: None = None,
        /,
        *,
        isolation: Isolation = "read committed",
        read_only: bool = False,
        name: str | None = None,
        max_attempts: int = 10,
        timeout_seconds: float | None = None,
    ) -> TransactionDecorator[asyncpg.Connection[Any]]: ...
    @overload
    def transaction(
        self,
        sessions: SessionMaker[S],
        /,
        *,
        isolation: Isolation = "read committed",
        read_only: bool = False,
        name: str | None = None,
        max_attempts: int = 10,
        timeout_seconds: float | None = None,
    ) -> TransactionDecorator[S]: ...
    def transaction(
        self,
        sessions: Any = None,
        /,
        *,
        isolation: Isolation = "read committed",
        read_only: bool = False,
        name: str | None = None,
        max_attempts: int = 10,
        timeout_seconds: float | None = None,
    ) -> Any:
        """Register an ``async def`` as a transaction, a step whose writes in the database and whose record are one commit.

        Its first parameter is an asyncpg connection, in a transaction that is open. Given ``sessions``, an ``async_sessionmaker``
        of SQLAlchemy, it is an ``AsyncSession``. Callers leave it out. What the function writes there, the messages that it sends,
        the workflows that it starts and the events that it sets happen together with the record of the step, once, or not at all.
        An exception rolls all of it back, and is recorded after that as the error of the step.

        The transaction is repeated from its beginning after a serialization failure or a deadlock, up to ``max_attempts`` times,
        and after a lost connection. ``isolation`` is "read committed", "repeatable read" or "serializable"; with ``read_only=True``
        it cannot write. An attempt that takes longer than ``timeout_seconds`` (``None``: no limit) is rolled back and raises
        `StepTimeoutError`. A record knows the transaction by its ``name`` (``None``: the qualified name of the function).

        In a step and outside of workflows it is a plain transaction without a record. There it raises `DatabaseUnavailableError`
        when the database is away for too long, or when the connection is lost during the commit. Called in the body of another
        transaction it is a part of that, in a savepoint.

        Raises `InvalidArgumentError` when an option cannot be used, and `RegistrationError` when the function cannot be a
        transaction (no coroutine, no parameter for the connection), or when another function has the name. A call raises
        `TransactionError` when the body ends or breaks its transaction.

        Example:
            ```python
            @DBOS.transaction()
            async def reserve(connection: asyncpg.Connection, item: str) -> int:
                await connection.execute("create table if not exists stock (item text primary key, pieces int)")
                await connection.execute("insert into stock values ($1, 42) on conflict do nothing", item)
                return await connection.fetchval(
                    "update stock set pieces = pieces - 1 where item = $1 returning pieces", item
                )

            @DBOS.workflow()
            async def checkout(item: str) -> str:
                return f"{await reserve(item)} left"

            assert await checkout("a widget") == "41 left"
            ```
        """
        if isolation not in ISOLATIONS:
            allowed = ", ".join(map(repr, ISOLATIONS))
            raise InvalidArgumentError(f"isolation must be one of {allowed}.")
        options = TransactionOptions(
            isolation,
            check_flag(read_only, "read_only"),
            check_int(max_attempts, 1, "max_attempts"),
            check_seconds(timeout_seconds),
        )
        return TransactionDecorator(_source(sessions), options, check_optional_key(name, "name"))


def _source(sessions: Any) -> Source:
    if sessions is None:
        return _CONNECTIONS
    if inspect.isroutine(sessions) or isinstance(sessions, (classmethod, staticmethod)):
        raise InvalidArgumentError("@DBOS.transaction needs its parentheses: write @DBOS.transaction().")
    # SQLAlchemy itself is not imported here: only programs that use it have it.
    if not hasattr(getattr(sessions, "class_", None), "sync_session_class"):
        raise InvalidArgumentError(
            f"The sessions of a transaction come from an async_sessionmaker of SQLAlchemy, and this is of type {kind_of(sessions)}."
        )
    return SessionSource(sessions)


_CONNECTIONS = ConnectionSource()
