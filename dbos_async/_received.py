"""What a receive returns beside the payload: a message in its envelope, and a question that can be answered."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

from pydantic import BaseModel, PrivateAttr

T = TypeVar("T")
Q = TypeVar("Q")
A = TypeVar("A")


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
    sent_at: datetime
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
    """A received question, as `DBOS.recv_envelope` returns it for a `Question`. Answer it, or refuse to."""

    _answerer: Answerer | None = PrivateAttr(default=None)

    async def answer(self, value: A) -> bool:
        """Answer the question. Returns False if it was answered or refused before: the first answer counts."""
        raise NotImplementedError

    async def refuse(self, reason: str) -> bool:
        """Refuse to answer: the one who asked gets a `RefusedError` with this reason."""
        raise NotImplementedError
