"""What a receive returns beside the payload: a message in its envelope, and a question that can be answered."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Protocol, TypeVar
from uuid import UUID

from pydantic import AfterValidator, BaseModel

T = TypeVar("T")
Q = TypeVar("Q")
A = TypeVar("A")


def _in_utc(time: datetime) -> datetime:
    # The server writes times into JSON in the time zone of the session, which may be that of a role or a pooler.
    return time.astimezone(UTC) if time.tzinfo is not None else time


# A payload type without its own pydantic configuration uses this one. Bytes are stored as base64.
class Envelope(BaseModel, Generic[T], frozen=True, ser_json_bytes="base64", val_json_bytes="base64"):
    """A received message with its metadata, as `DBOS.recv_envelope` returns it::

        envelope = await DBOS.recv_envelope("paid")
        if envelope is not None:
            print(envelope.sender_id, envelope.sent_at, envelope.payload)

    ``topic`` is ``None`` for a message that was sent without a topic. ``sender_id`` is the id of the workflow that sent it,
    ``None`` if it was sent from outside of workflows. ``sent_at`` is the time in UTC, by the clock of the database, at which
    the message was stored. ``headers`` is empty for a message that was sent without headers.
    """

    id: UUID
    destination_id: str
    topic: str | None
    payload: T
    sender_id: str | None
    sent_at: Annotated[datetime, AfterValidator(_in_utc)]
    headers: dict[str, str]


class Answerer(Protocol):
    """What stores the answer to a question, in the name of the workflow that has received it."""

    async def answer(self, asked: Asked[Any, Any], value: Any) -> bool:
        """Store the answer, unless the question has one; return whether it was stored."""
        ...

    async def refuse(self, asked: Asked[Any, Any], reason: str) -> bool:
        """Store that there will be no answer, unless the question has one; return whether it was stored."""
        ...


class Asked(Envelope[Q], Generic[Q, A], frozen=True):
    """A received question, as `DBOS.recv_envelope` returns it for a `Question`. Answer it, or refuse to.

    The workflow that has received it answers, in its body or in a step. In the body that happens exactly once, however often the
    workflow is replayed. The first answer counts.
    """

    async def answer(self, value: A) -> bool:
        """Answer the question: the one who asked gets ``value``.

        Returns ``True`` if this answer counts, ``False`` if the question was answered or refused before. Raises
        `InvalidValueError` when the value is not JSON, is too large or does not fit the answer type of the question; then nothing
        is stored. Raises `WrongPlaceError` outside of the workflow that was asked.

        Example:
            ```python
            QUOTE = Question("quote", str, int)

            @DBOS.workflow()
            async def shop() -> None:
                while (asked := await DBOS.recv_envelope(QUOTE)) is not None:
                    await asked.answer(100 * len(asked.payload))

            handle = await DBOS.start_workflow(shop)
            assert await DBOS.ask(handle.workflow_id, QUOTE, "a widget") == 800
            ```
        """
        return await _answerer().answer(self, value)

    async def refuse(self, reason: str) -> bool:
        """Refuse to answer: the one who asked gets a `RefusedError` with this reason.

        What it returns and raises is as for `answer`.

        Example:
            ```python
            QUOTE = Question("quote", str, int)

            @DBOS.workflow()
            async def shop() -> None:
                asked = await DBOS.recv_envelope(QUOTE)
                if asked is not None:
                    await asked.refuse("no stock")

            handle = await DBOS.start_workflow(shop)
            try:
                await DBOS.ask(handle.workflow_id, QUOTE, "a widget")
            except RefusedError as refused:
                assert refused.reason == "no stock"
            ```
        """
        return await _answerer().refuse(self, reason)


_answerers: list[Answerer] = []


def answered_by(answerer: Answerer) -> None:
    """Let questions be answered by this. The types that users hold know nothing of the database."""
    _answerers[:] = [answerer]


def _answerer() -> Answerer:
    return _answerers[0]
