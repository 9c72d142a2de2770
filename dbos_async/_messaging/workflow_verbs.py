"""The messaging verbs that only workflows, or workflows and their steps, may call: they are on `DBOS` and not on `DBOSClient`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from typing import Any, TypeVar, overload

from dbos_async._database.database import Database
from dbos_async._messaging import events, iterate, recv, streams
from dbos_async.envelope import Asked, Envelope
from dbos_async.keys import Event, Question, Stream, Topic

R = TypeVar("R")
Q = TypeVar("Q")
A = TypeVar("A")


class WorkflowMessagingVerbs(ABC):
    """Receive messages, set events and write streams in the name of the calling workflow."""

    @property
    @abstractmethod
    def _database(self) -> Database:
        """The database that the verbs use; raises when it may not be used from here."""

    @overload
    async def recv(self, topic: Topic[R], timeout_seconds: float | None = 60) -> R | None: ...
    @overload
    async def recv(self, topic: str | None = None, timeout_seconds: float | None = 60) -> Any: ...
    async def recv(self, topic: str | Topic[Any] | None = None, timeout_seconds: float | None = 60) -> Any:
        """Take the oldest unreceived message of this workflow and topic (workflows only).

        Returns ``None`` when no message came within ``timeout_seconds``. The time counts from the first wait, by the clock of the
        database, also across restarts; ``timeout_seconds=None`` waits forever. Without a topic, only messages that were sent
        without one are received. Taking the message and recording the step are one commit, so a replay returns the same message.

        Raises `InvalidMessageError` when the message does not fit the type of the topic. The message is then rejected: it
        stays in `DBOS.list_messages`, and the next ``recv`` takes the next one. Raises `WrongPlaceError` outside workflows.

        Example:
            ```python
            PAYMENT = Topic("payment", int)

            @DBOS.workflow()
            async def checkout() -> str:
                cents = await DBOS.recv(PAYMENT, timeout_seconds=300)
                return "cancelled" if cents is None else f"paid {cents} cents"

            handle = await DBOS.start_workflow(checkout)
            await DBOS.send(handle.workflow_id, 1250, PAYMENT)
            assert await handle.get_result() == "paid 1250 cents"
            ```
        """
        return await recv.recv(self._database, topic, timeout_seconds)

    @overload
    async def recv_envelope(self, topic: Question[Q, A], timeout_seconds: float | None = 60) -> Asked[Q, A] | None: ...
    @overload
    async def recv_envelope(self, topic: Topic[R], timeout_seconds: float | None = 60) -> Envelope[R] | None: ...
    @overload
    async def recv_envelope(
        self, topic: str | None = None, timeout_seconds: float | None = 60
    ) -> Envelope[Any] | None: ...
    async def recv_envelope(
        self, topic: str | Topic[Any] | None = None, timeout_seconds: float | None = 60
    ) -> Envelope[Any] | None:
        """As `DBOS.recv`, but returns the message in its `Envelope`: with its id, sender, time and headers (workflows only).

        ``None`` always means that no message came in time, also where a message may be ``None`` itself. A message of a `Question`
        comes as an `Asked`, which can be answered.

        Example:
            ```python
            @DBOS.workflow()
            async def answer() -> str:
                question = await DBOS.recv_envelope("question", timeout_seconds=None)
                assert question is not None
                return f"{question.payload} ({question.headers['language']})"

            handle = await DBOS.start_workflow(answer)
            await DBOS.send(handle.workflow_id, "Wie viel?", "question", headers={"language": "de"})
            assert await handle.get_result() == "Wie viel? (de)"
            ```
        """
        return await recv.recv_envelope(self._database, topic, timeout_seconds)

    @overload
    def messages(
        self, topic: Question[Q, A], *, timeout_seconds: float | None = None
    ) -> AsyncGenerator[Asked[Q, A], None]: ...
    @overload
    def messages(
        self, topic: Topic[R], *, timeout_seconds: float | None = None
    ) -> AsyncGenerator[Envelope[R], None]: ...
    @overload
    def messages(
        self, topic: str | None = None, *, timeout_seconds: float | None = None
    ) -> AsyncGenerator[Envelope[Any], None]: ...
    def messages(
        self, topic: str | Topic[Any] | None = None, *, timeout_seconds: float | None = None
    ) -> AsyncGenerator[Envelope[Any], None]:
        """Yield the messages of this workflow and topic in their envelopes, the oldest first, each once (workflows only).

        Each turn of the loop is one `DBOS.recv_envelope`. The loop ends when no message came for ``timeout_seconds``; with
        ``None`` it waits forever. Leaving the loop takes nothing more. Raises what `DBOS.recv_envelope` raises; a message that
        does not fit its type is then rejected, and a new loop goes on with the next one.

        Example:
            ```python
            @DBOS.workflow()
            async def total() -> int:
                cents = 0
                async for payment in DBOS.messages("cents"):
                    if payment.payload is None:
                        break
                    cents += payment.payload
                return cents

            handle = await DBOS.start_workflow(total)
            await DBOS.send_bulk([SendMessage(handle.workflow_id, cents, "cents") for cents in (5, 10, None)])
            assert await handle.get_result() == 15
            ```
        """
        return iterate.messages(self._database, topic, timeout_seconds)

    @overload
    async def set_event(self, key: Event[R], value: R) -> None: ...
    @overload
    async def set_event(self, key: str, value: Any) -> None: ...
    async def set_event(self, key: str | Event[Any], value: Any) -> None:
        """Set an event of the calling workflow to ``value`` (workflows and steps). `DBOS.get_event` reads the latest value.

        A workflow sets it exactly once: a replay never puts an older value over a newer one. The value can be read until the
        workflow is deleted.

        Raises `InvalidValueError` when the value is not JSON, is too large or does not fit the type of the event, and
        `WrongPlaceError` outside workflows.

        Example:
            ```python
            STATUS = Event("status", str)

            @DBOS.workflow()
            async def checkout() -> None:
                await DBOS.set_event(STATUS, "waiting for the payment")
                await DBOS.recv("payment")

            handle = await DBOS.start_workflow(checkout)
            assert await DBOS.get_event(handle.workflow_id, STATUS) == "waiting for the payment"
            await DBOS.send(handle.workflow_id, 1250, "payment")
            ```
        """
        await events.set_event(self._database, key, value)

    @overload
    async def write_stream(self, key: Stream[R], value: R) -> None: ...
    @overload
    async def write_stream(self, key: str, value: Any) -> None: ...
    async def write_stream(self, key: str | Stream[Any], value: Any) -> None:
        """Append a value to a stream of the calling workflow (workflows and steps). `DBOS.read_stream` reads it.

        Any JSON value may be written, also ``None``. A workflow writes each value exactly once; a step writes at least once, so
        readers see the values of every attempt.

        Raises `StreamClosedError` when the stream is closed, `InvalidValueError` when the value is not JSON, is too large or does
        not fit the type of the stream, and `WrongPlaceError` outside workflows.

        Example:
            ```python
            @DBOS.step()
            async def generate() -> None:
                for word in ("durable", "messages"):
                    await DBOS.write_stream("words", word)

            @DBOS.workflow()
            async def chat() -> None:
                await generate()

            handle = await DBOS.start_workflow(chat)
            assert [word async for word in DBOS.read_stream(handle.workflow_id, "words")] == ["durable", "messages"]
            ```
        """
        await streams.write_stream(self._database, key, value)

    async def close_stream(self, key: str | Stream[Any]) -> None:
        """Close a stream of the calling workflow for writing (workflows and steps). Closing it twice is a no-op.

        Readers end once they have read every value; a stream that is never closed ends with its workflow. Raises
        `WrongPlaceError` outside workflows.

        Example:
            ```python
            @DBOS.workflow()
            async def report() -> None:
                await DBOS.write_stream("lines", "all is well")
                await DBOS.close_stream("lines")
                await DBOS.recv("the end")

            handle = await DBOS.start_workflow(report)
            assert [line async for line in DBOS.read_stream(handle.workflow_id, "lines")] == ["all is well"]
            await DBOS.send(handle.workflow_id, None, "the end")
            ```
        """
        await streams.close_stream(self._database, key)
