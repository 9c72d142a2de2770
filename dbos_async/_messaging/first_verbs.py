"""``DBOS.wait_first``: a class of its own, since the overloads of a verb for any number of things are long."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, TypeVar, overload

from dbos_async._database.database import Database
from dbos_async._messaging import first
from dbos_async.waits import Wait

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
F = TypeVar("F")


class FirstVerbs(ABC):
    """Wait for the first of several things in the calling workflow."""

    @property
    @abstractmethod
    def _database(self) -> Database:
        """The database that the verbs use; raises when it may not be used from here."""

    @overload
    async def wait_first(self, a: Wait[A], /, *, timeout_seconds: None = None) -> A: ...
    @overload
    async def wait_first(self, a: Wait[A], /, *, timeout_seconds: float | None) -> A | None: ...
    @overload
    async def wait_first(self, a: Wait[A], b: Wait[B], /, *, timeout_seconds: None = None) -> A | B: ...
    @overload
    async def wait_first(self, a: Wait[A], b: Wait[B], /, *, timeout_seconds: float | None) -> A | B | None: ...
    @overload
    async def wait_first(
        self,
        a: Wait[A],
        b: Wait[B],
        c: Wait[C],
        /,
        *,
        timeout_seconds: None = None,
    ) -> A | B | C: ...
    @overload
    async def wait_first(
        self, a: Wait[A], b: Wait[B], c: Wait[C], /, *, timeout_seconds: float | None
    ) -> A | B | C | None: ...
    @overload
    async def wait_first(
        self, a: Wait[A], b: Wait[B], c: Wait[C], d: Wait[D], /, *, timeout_seconds: None = None
    ) -> A | B | C | D: ...
    @overload
    async def wait_first(
        self, a: Wait[A], b: Wait[B], c: Wait[C], d: Wait[D], /, *, timeout_seconds: float | None
    ) -> A | B | C | D | None: ...
    @overload
    async def wait_first(
        self, a: Wait[A], b: Wait[B], c: Wait[C], d: Wait[D], e: Wait[E], /, *, timeout_seconds: None = None
    ) -> A | B | C | D | E: ...
    @overload
    async def wait_first(
        self, a: Wait[A], b: Wait[B], c: Wait[C], d: Wait[D], e: Wait[E], /, *, timeout_seconds: float | None
    ) -> A | B | C | D | E | None: ...
    @overload
    async def wait_first(
        self, a: Wait[A], b: Wait[B], c: Wait[C], d: Wait[D], e: Wait[E], f: Wait[F], /, *, timeout_seconds: None = None
    ) -> A | B | C | D | E | F: ...
    @overload
    async def wait_first(
        self,
        a: Wait[A],
        b: Wait[B],
        c: Wait[C],
        d: Wait[D],
        e: Wait[E],
        f: Wait[F],
        /,
        *,
        timeout_seconds: float | None,
    ) -> A | B | C | D | E | F | None: ...
    @overload
    async def wait_first(self, *waits: Wait[A], timeout_seconds: float | None = None) -> A | None: ...
    @overload
    async def wait_first(self, *waits: Wait[Any] | str, timeout_seconds: float | None = None) -> Any: ...
    async def wait_first(self, *waits: Any, timeout_seconds: float | None = None) -> Any:
        """Wait for the first of several things, and return what it brings (workflows only).

        ``waits`` are what one waits for: a `Topic` (or a plain ``str``) brings the `Envelope` of its oldest message, a `Question`
        an `Asked`, an `EventOf` an `EventValue` (an `EventEnd` once the workflow has ended without a later version), a `StreamOf` a
        `StreamValue` (a `StreamEnd` once the stream has ended), and a `WorkflowHandle` or `StepHandle` that has an outcome brings
        itself: its ``get_result()`` then returns or raises at once.

        Of several that are ready, the first in the order of the arguments wins. The winner is recorded with what it brings, so a
        replay returns the same; of the losers nothing is taken. Returns ``None`` when none is ready within ``timeout_seconds``
        (``None``: no limit), counted from the first wait, by the clock of the database, also across restarts.

        Raises `InvalidMessageError` (`InvalidValueError`, `InvalidStreamValueError`) when what has won does not fit its type,
        `WorkflowNotFoundError` for a stream of a workflow that does not exist, `InvalidArgumentError` when an argument is nothing
        that one can wait for, and `WrongPlaceError` outside workflows.

        Example:
            ```python
            STOP = Topic("stop", str)
            PAID = Topic("paid", int)

            @DBOS.workflow()
            async def checkout() -> str:
                match await DBOS.wait_first(STOP, PAID, timeout_seconds=3600):
                    case Envelope(topic="stop", payload=reason):
                        return f"stopped: {reason}"
                    case Envelope(payload=cents):
                        return f"paid {cents} cents"
                    case None:
                        return "nobody came"

            handle = await DBOS.start_workflow(checkout)
            await DBOS.send(handle.workflow_id, 1250, PAID)
            assert await handle.get_result() == "paid 1250 cents"
            ```
        """
        return await first.wait_first(self._database, waits, timeout_seconds)
