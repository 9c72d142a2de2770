"""What travels: a message as it is sent, and the envelope in which it arrives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload
from uuid import UUID

from pydantic import BaseModel

from dbos_async.keys import Topic

T = TypeVar("T")


# A payload whose type has no configuration of its own follows this one, and its bytes were stored as base64.
class Envelope(BaseModel, Generic[T], frozen=True, ser_json_bytes="base64", val_json_bytes="base64"):
    """A received message with everything that is known of it.

    ``sender_id`` is the id of the workflow that sent it, ``None`` for a sender outside of workflows.
    ``sent_at`` is when it was stored, by the database's clock, in UTC. ``topic`` is ``None`` for a message without one.
    """

    id: UUID
    destination_id: str
    topic: str | None
    payload: T
    sender_id: str | None
    sent_at: datetime
    headers: dict[str, str]


class Message(Envelope[Any], frozen=True):
    """A message as `DBOS.list_messages` shows it; its payload is plain JSON.

    ``received_at`` is when a step took it, ``None`` while it waits. ``rejected`` is why its receiver could not read it.
    """

    idempotency_key: str | None
    received_at: datetime | None
    rejected: str | None


@dataclass(frozen=True)
class SendMessage:
    """One message of a `DBOS.send_bulk`: the arguments that `DBOS.send` would take."""

    destination_id: str
    message: Any
    topic: str | Topic[Any] | None = None
    idempotency_key: str | None = None
    headers: Mapping[str, str] | None = None

    if TYPE_CHECKING:
        # What the dataclass makes by itself, said so that the message is checked against the type of its topic.
        @overload
        def __init__(
            self,
            destination_id: str,
            message: T,
            topic: Topic[T],
            idempotency_key: str | None = None,
            headers: Mapping[str, str] | None = None,
        ) -> None: ...
        @overload
        def __init__(
            self,
            destination_id: str,
            message: Any,
            topic: str | None = None,
            idempotency_key: str | None = None,
            headers: Mapping[str, str] | None = None,
        ) -> None: ...
        def __init__(
            self,
            destination_id: str,
            message: Any,
            topic: str | Topic[Any] | None = None,
            idempotency_key: str | None = None,
            headers: Mapping[str, str] | None = None,
        ) -> None: ...
