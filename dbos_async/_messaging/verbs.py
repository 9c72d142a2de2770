"""The messaging verbs of `DBOS` and `DBOSClient`: send messages, read events and streams, look into a mailbox."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload
from uuid import UUID

from dbos_async._database.database import Database
from dbos_async._messaging import events, mailbox, read_stream, send, trim
from dbos_async._runs.start_options import StartCall
from dbos_async.envelope import Message, SendMessage
from dbos_async.keys import Event, Stream, Topic

if TYPE_CHECKING:
    from dbos_async._runs.transaction import Connection

R = TypeVar("R")


class MessagingVerbs(ABC):
    """Messages, events and streams, for callers anywhere."""

    @property
    @abstractmethod
    def _database(self) -> Database:
        """The database that the verbs use; raises when it may not be used from here."""

    @overload
    async def send(
        self,
        destination_id: str,
        message: R,
        topic: Topic[R],
        *,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        delay_seconds: float | None = None,
        start: StartCall | None = None,
        connection: Connection | None = None,
    ) -> bool: ...
    @overload
    async def send(
        self,
        destination_id: str,
        message: Any,
        topic: str | None = None,
        *,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        delay_seconds: float | None = None,
        start: StartCall | None = None,
        connection: Connection | None = None,
    ) -> bool: ...
    async def send(
        self,
        destination_id: str,
        message: Any,
        topic: str | Topic[Any] | None = None,
        *,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        delay_seconds: float | None = None,
        start: StartCall | None = None,
        connection: Connection | None = None,
    ) -> bool:
        """Send a message to a workflow. When this returns, the message is committed: a live destination will receive it.

        Returns False if the destination had ended (SUCCESS, ERROR or CANCELLED): the message is stored all the same.

        ``topic=None`` sends a message without a topic, which only a `DBOS.recv` without a topic receives. A workflow sends
        exactly once, however often it is replayed; a step sends at least once. Elsewhere an ``idempotency_key`` (or
        `SetWorkflowID`) makes a repeated send to that destination a no-op. ``headers`` arrive in the `Envelope`.

        With ``delay_seconds`` the message cannot be received before this time has passed, by the clock of the database; then it
        takes its place in the queue. Delayed messages are received in the order of the times at which they are due.

        With ``start=Start(function, …)`` the destination is started if it is not there, in the same commit; the message may be
        delayed, and the start is not. `SetWorkflowTimeout`, `SetApplicationVersion` and `SetStartDelay` are for that start. A
        destination that is there must be a workflow of this function, or this raises `WorkflowConflictError` and stores nothing.

        With ``connection``, an asyncpg connection, the send is a part of the transaction that is open there: the message is seen
        once that commits, and an error leaves the transaction as it was.

        Raises `WorkflowNotFoundError` when the destination does not exist, `InvalidMessageError` when the message is not JSON,
        is too large or does not fit the type of its topic; then nothing is stored. Outside workflows it raises
        `DatabaseUnavailableError` when the database cannot be reached for ``connect_timeout_seconds``.

        Example:
            ```python
            @DBOS.workflow()
            async def checkout(order_id: str) -> str:
                status = await DBOS.recv("payment_status")
                return f"{order_id} is {status}"

            handle = await DBOS.start_workflow(checkout, "order-17")
            await DBOS.send(handle.workflow_id, "paid", "payment_status")
            assert await handle.get_result() == "order-17 is paid"
            ```
        """
        outgoing = SendMessage(destination_id, message, topic, idempotency_key, headers, delay_seconds)
        return await send.send(self._database, outgoing, connection, start)

    async def send_bulk(self, messages: Sequence[SendMessage], *, connection: Connection | None = None) -> list[str]:
        """Send all these messages in one commit, or none. Messages to one destination keep their order.

        Returns the ids of the destinations that had ended; their messages are stored all the same.

        The guarantees, ``connection`` and the errors are those of `send`; an error about one message means that none is sent.

        Example:
            ```python
            @DBOS.workflow()
            async def total() -> int:
                return sum([await DBOS.recv("cents") for _ in range(3)])

            handle = await DBOS.start_workflow(total)
            await DBOS.send_bulk([SendMessage(handle.workflow_id, cents, "cents") for cents in (5, 10, 20)])
            assert await handle.get_result() == 35
            ```
        """
        return await send.send_bulk(self._database, messages, connection)

    @overload
    async def get_event(
        self, workflow_id: str, key: Event[R], timeout_seconds: float | None = 60, *, after: int = 0
    ) -> R | None: ...
    @overload
    async def get_event(
        self, workflow_id: str, key: str, timeout_seconds: float | None = 60, *, after: int = 0
    ) -> Any: ...
    async def get_event(
        self, workflow_id: str, key: str | Event[Any], timeout_seconds: float | None = 60, *, after: int = 0
    ) -> Any:
        """The latest value of an event of a workflow. Waits for the first value, also of a workflow that has not started yet.

        With ``after``, a version that `DBOS.watch_event` has told, it waits for a later value than that one.
        Returns ``None`` when no value came within ``timeout_seconds``, and at once when the workflow has ended without one.
        ``timeout_seconds=None`` waits forever. In a workflow the value is recorded, so a replay reads the same one; the time
        counts from the first wait, by the clock of the database.

        Raises `InvalidValueError` when the value does not fit the type of the event.

        Example:
            ```python
            @DBOS.workflow()
            async def checkout() -> None:
                await DBOS.set_event("payment_id", "p-4711")

            handle = await DBOS.start_workflow(checkout)
            assert await DBOS.get_event(handle.workflow_id, "payment_id", timeout_seconds=10) == "p-4711"
            ```
        """
        return await events.get_event(self._database, workflow_id, key, timeout_seconds, after)

    async def get_all_events(self, workflow_id: str) -> dict[str, Any]:
        """The latest value of every event that the workflow has set so far, by key, as plain JSON values.

        Does not wait, and is empty for a workflow that has set none or does not exist.

        Example:
            ```python
            @DBOS.workflow()
            async def checkout() -> None:
                await DBOS.set_event("payment_id", "p-4711")
                await DBOS.set_event("cents", 1250)

            handle = await DBOS.start_workflow(checkout)
            await handle.get_result()
            assert await DBOS.get_all_events(handle.workflow_id) == {"payment_id": "p-4711", "cents": 1250}
            ```
        """
        return await events.get_all_events(self._database, workflow_id)

    @overload
    def read_stream(
        self, workflow_id: str, key: Stream[R], *, offset: int = 0, timeout_seconds: float | None = None
    ) -> AsyncGenerator[R, None]: ...
    @overload
    def read_stream(
        self, workflow_id: str, key: str, *, offset: int = 0, timeout_seconds: float | None = None
    ) -> AsyncGenerator[Any, None]: ...
    def read_stream(
        self, workflow_id: str, key: str | Stream[Any], *, offset: int = 0, timeout_seconds: float | None = None
    ) -> AsyncGenerator[Any, None]:
        """Yield the values of a stream in order, from ``offset`` on, as they are written.

        Ends when the stream is closed, or its workflow has ended, and every value has been yielded. In a workflow a replay reads
        the same values.

        Raises `WorkflowNotFoundError` when there is no such workflow, `StreamTimeoutError` (a ``TimeoutError``) after
        ``timeout_seconds`` without a value (``None`` waits forever), `InvalidStreamValueError` at a value that does not fit
        the type of the stream, and `StreamTrimmedError` where values were removed by `DBOS.trim_stream`.

        Example:
            ```python
            @DBOS.workflow()
            async def bake() -> None:
                for percent in (0, 50, 100):
                    await DBOS.write_stream("progress", percent)

            handle = await DBOS.start_workflow(bake)
            async for percent in DBOS.read_stream(handle.workflow_id, "progress"):
                print(f"{percent} %")
            ```
        """
        return read_stream.read_stream(self._database, workflow_id, key, offset, timeout_seconds)

    async def trim_stream(self, workflow_id: str, key: str | Stream[Any], *, before: int) -> int:
        """Remove the values of a stream below the offset ``before``. Returns the first offset that is there then.

        All other values keep their offsets, and so do those that are written later. Where the stream ends before ``before``, all
        that is there is removed. Trimming again, or below what is trimmed, removes nothing. A reader that is at an offset without
        a value gets a `StreamTrimmedError`, which names the first offset that is there; a replay that needs such a value is parked.
        Nothing brings the values back.

        It works anywhere; a workflow records it as a step. A stream with many values is trimmed in parts. If that is interrupted,
        the values below some offset are gone: call it again.

        Raises `WorkflowNotFoundError` when there is no such workflow, and `InvalidArgumentError` when an argument cannot be used.

        Example:
            ```python
            @DBOS.workflow()
            async def count() -> None:
                await DBOS.write_stream_many("numbers", [0, 1, 2, 3])

            handle = await DBOS.start_workflow(count)
            await handle.get_result()
            assert await DBOS.trim_stream(handle.workflow_id, "numbers", before=2) == 2
            assert [number async for number in DBOS.read_stream(handle.workflow_id, "numbers", offset=2)] == [2, 3]
            ```
        """
        return await trim.trim_stream(self._database, workflow_id, key, before)

    async def list_messages(
        self,
        workflow_id: str | None = None,
        *,
        topic: str | Topic[Any] | None = None,
        status: str | None = None,
        limit: int = 100,
        after: UUID | str | None = None,
        newest_first: bool = False,
        payloads: bool = True,
        cursor: str | None = None,
    ) -> list[Message]:
        """The messages that were sent to a workflow, the oldest first, at most ``limit``.

        Without a ``workflow_id`` they are those of all workflows with the ``status`` "waiting" (for workflows that have not ended),
        "rejected" or "delayed".

        ``topic`` and ``status`` filter; ``None`` lists all. ``status`` is ``"waiting"``, ``"received"``, ``"rejected"`` (the
        receiver could not read the message, and `Message.rejected` says why) or ``"delayed"`` (it is due at `Message.due_at`, and
        is listed under this status alone). ``payloads=False`` leaves the payloads out. ``after`` is the last id of the page
        before, ``cursor`` the ``cursor`` of its last row, as for `DBOS.list_workflows`: the pages show each message once, also one
        whose send is committed late.

        Raises `WorkflowNotFoundError` when there is no such workflow, `InvalidArgumentError` when an argument cannot be used.

        Example:
            ```python
            @DBOS.workflow()
            async def ends_at_once() -> None: ...

            handle = await DBOS.start_workflow(ends_at_once)
            await DBOS.send(handle.workflow_id, "too late", "news")
            (message,) = await DBOS.list_messages(handle.workflow_id, topic="news", status="waiting")
            assert (message.payload, message.received_at) == ("too late", None)
            ```
        """
        return await mailbox.list_messages(
            self._database, workflow_id, topic=topic, status=status, newest_first=newest_first, payloads=payloads,
            limit=limit, after=after, cursor=cursor,
        )  # fmt: skip

    async def redeliver(self, message_id: UUID | str) -> None:
        """Append a copy of a rejected message to the queue of its workflow, so that the repaired code receives it.

        Raises `RedeliveryError` when the message was not rejected, or when its workflow has ended; the error then names the
        `fork_workflow` that receives the message again. Raises `MessageNotFoundError` when no message has this id.

        Example:
            ```python
            @DBOS.workflow()
            async def read_number() -> int | str:
                try:
                    return await DBOS.recv(Topic("number", int))
                except InvalidMessageError:
                    return await DBOS.recv("number")

            handle = await DBOS.start_workflow(read_number)
            await DBOS.send(handle.workflow_id, "seven", "number")
            while not (rejected := await DBOS.list_messages(handle.workflow_id, status="rejected")):
                await asyncio.sleep(0.1)
            await DBOS.redeliver(rejected[0].id)
            assert await handle.get_result() == "seven"
            ```
        """
        await mailbox.redeliver(self._database, message_id)
