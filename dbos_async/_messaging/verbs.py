"""The verbs of `DBOS` for talking to workflows: messages, events and streams."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from dbos_async._messaging import events, recv, send, streams
from dbos_async._workflows.start import database
from dbos_async.envelope import Envelope, SendMessage
from dbos_async.keys import Event, Stream, Topic

if TYPE_CHECKING:
    from dbos_async._runs.transaction import Connection

R = TypeVar("R")


class Conversation:
    """Messages, events and streams."""

    # Messages

    @overload
    @staticmethod
    async def send(
        destination_id: str,
        message: R,
        topic: Topic[R],
        *,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        connection: Connection | None = None,
    ) -> None: ...
    @overload
    @staticmethod
    async def send(
        destination_id: str,
        message: Any,
        topic: str | None = None,
        *,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        connection: Connection | None = None,
    ) -> None: ...
    @staticmethod
    async def send(
        destination_id: str,
        message: Any,
        topic: str | Topic[Any] | None = None,
        *,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        connection: Connection | None = None,
    ) -> None:
        """Send a message to a workflow; once this returns it is committed and a live destination will receive it.

        From a workflow it is sent exactly once. Elsewhere an ``idempotency_key`` (or `SetWorkflowID`) makes a repeated send to
        that destination a no-op. Raises `WorkflowNotFoundError` when there is no such workflow, `InvalidMessageError` when
        the message is not JSON or does not fit the type of its topic; then nothing is stored.

        With ``connection``, an asyncpg connection, it is a part of the transaction that is open there: nobody sees it before that
        commits, and an error leaves the transaction as it was.
        """
        message = SendMessage(destination_id, message, topic, idempotency_key, headers)
        await send.send(database(), message, connection)

    @staticmethod
    async def send_bulk(messages: Sequence[SendMessage], *, connection: Connection | None = None) -> None:
        """Send all these messages, or none; they keep their order. One commit, however many; ``connection`` as for `send`."""
        await send.send_bulk(database(), messages, connection)

    @overload
    @staticmethod
    async def recv(topic: Topic[R], timeout_seconds: float | None = 60) -> R | None: ...
    @overload
    @staticmethod
    async def recv(topic: str | None = None, timeout_seconds: float | None = 60) -> Any: ...
    @staticmethod
    async def recv(topic: str | Topic[Any] | None = None, timeout_seconds: float | None = 60) -> Any:
        """Take the oldest unreceived message of this workflow and topic (workflows only), ``None`` when none came in time.

        Without a topic only messages that were sent without one are received. The time counts from the first wait, by the
        database's clock, also across restarts; ``timeout_seconds=None`` waits for ever.

        Example:
            ```python
            payment_status = await DBOS.recv("payment_status", timeout_seconds=300)
            ```
        """
        return await recv.recv(database(), topic, timeout_seconds)

    @overload
    @staticmethod
    async def recv_envelope(topic: Topic[R], timeout_seconds: float | None = 60) -> Envelope[R] | None: ...
    @overload
    @staticmethod
    async def recv_envelope(topic: str | None = None, timeout_seconds: float | None = 60) -> Envelope[Any] | None: ...
    @staticmethod
    async def recv_envelope(
        topic: str | Topic[Any] | None = None, timeout_seconds: float | None = 60
    ) -> Envelope[Any] | None:
        """As `DBOS.recv`, with everything that is known of the message; ``None`` is a time-out and nothing else."""
        return await recv.recv_envelope(database(), topic, timeout_seconds)

    # Events

    @overload
    @staticmethod
    async def set_event(key: Event[R], value: R) -> None: ...
    @overload
    @staticmethod
    async def set_event(key: str, value: Any) -> None: ...
    @staticmethod
    async def set_event(key: str | Event[Any], value: Any) -> None:
        """Let the workflow say ``value`` under ``key`` (workflows and steps); the latest value can always be read."""
        await events.set_event(database(), key, value)

    @overload
    @staticmethod
    async def get_event(workflow_id: str, key: Event[R], timeout_seconds: float | None = 60) -> R | None: ...
    @overload
    @staticmethod
    async def get_event(workflow_id: str, key: str, timeout_seconds: float | None = 60) -> Any: ...
    @staticmethod
    async def get_event(workflow_id: str, key: str | Event[Any], timeout_seconds: float | None = 60) -> Any:
        """The latest value that the workflow said under ``key``; waits for a first one, also of a workflow that is yet to start.

        ``None`` when none came in time, and at once when the workflow has ended without it. In a workflow what was read is
        recorded. ``timeout_seconds=None`` waits for ever.
        """
        return await events.get_event(database(), workflow_id, key, timeout_seconds)

    @staticmethod
    async def get_all_events(workflow_id: str) -> dict[str, Any]:
        """The latest value of every event that the workflow has set so far, by key, as plain JSON."""
        return await events.get_all_events(database(), workflow_id)

    # Streams

    @overload
    @staticmethod
    async def write_stream(key: Stream[R], value: R) -> None: ...
    @overload
    @staticmethod
    async def write_stream(key: str, value: Any) -> None: ...
    @staticmethod
    async def write_stream(key: str | Stream[Any], value: Any) -> None:
        """Append any JSON value to a stream of the workflow (workflows and steps). Raises `StreamClosedError` when it is closed."""
        await streams.write_stream(database(), key, value)

    @staticmethod
    async def close_stream(key: str | Stream[Any]) -> None:
        """Close a stream of the workflow for writing (workflows and steps); closing it twice is a no-op."""
        await streams.close_stream(database(), key)

    @overload
    @staticmethod
    def read_stream(
        workflow_id: str, key: Stream[R], *, offset: int = 0, timeout_seconds: float | None = None
    ) -> AsyncGenerator[R, None]: ...
    @overload
    @staticmethod
    def read_stream(
        workflow_id: str, key: str, *, offset: int = 0, timeout_seconds: float | None = None
    ) -> AsyncGenerator[Any, None]: ...
    @staticmethod
    def read_stream(
        workflow_id: str, key: str | Stream[Any], *, offset: int = 0, timeout_seconds: float | None = None
    ) -> AsyncGenerator[Any, None]:
        """Yield each value of a stream in order, from ``offset`` on, as they are written, until it is closed or its workflow ended.

        Raises `WorkflowNotFoundError` when there is no such workflow, and `StreamTimeoutError` (a ``TimeoutError``) after
        ``timeout_seconds`` without a value (``None`` waits for ever).

        Example:
            ```python
            async for value in DBOS.read_stream(workflow_id, "progress"):
                print(value)
            ```
        """
        return streams.read_stream(database(), workflow_id, key, offset, timeout_seconds)
