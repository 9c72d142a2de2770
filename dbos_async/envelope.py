"""A message as `DBOS.send_bulk` takes it, as `DBOS.recv_envelope` returns it, and as `DBOS.list_messages` shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, overload

from pydantic import Field

from dbos_async._checks import check_delay, check_instance, check_key
from dbos_async._received import Asked, Envelope
from dbos_async.keys import Topic, topic_and_type

__all__ = ["Asked", "Envelope", "Message", "SendMessage"]

T = TypeVar("T")


class Message(Envelope[Any], frozen=True):
    """A message as `DBOS.list_messages` shows it. Its payload is plain JSON.

    ``received_at`` is the time at which a step received it, ``None`` while it waits. ``rejected`` is the reason why the
    receiver could not decode it, ``None`` if there was no problem. ``idempotency_key`` is ``None`` if it was sent without one.
    ``answered_at`` is the time at which a question was answered or refused, ``due_at`` that at which a delayed message can be
    received; both are ``None`` for all others. ``cursor`` is where the next page begins if this is the
    last message of a page.
    """

    idempotency_key: str | None
    received_at: datetime | None
    rejected: str | None
    answered_at: datetime | None = None
    due_at: datetime | None = None
    cursor: str | None = Field(default=None, repr=False)


@dataclass(frozen=True)
class SendMessage:
    """One message for `DBOS.send_bulk`, with the same arguments as `DBOS.send`::

        await DBOS.send_bulk([SendMessage(order_id, "closed", "news") for order_id in ("order-17", "order-18")])

    ``topic`` is ``None`` for a message without a topic. A message that is sent again with the same ``idempotency_key`` to the same
    destination is stored only once. ``headers`` are texts that the receiver finds in the `Envelope`. With ``delay_seconds`` the
    message cannot be received before this time has passed.
    """

    destination_id: str
    message: Any
    topic: str | Topic[Any] | None = None
    idempotency_key: str | None = None
    headers: Mapping[str, str] | None = None
    delay_seconds: float | None = None

    def __post_init__(self) -> None:
        destination_id = check_key(self.destination_id, "destination_id")
        topic, key = self.topic, self.idempotency_key
        if topic is not None and not isinstance(topic, Topic):
            topic = topic_and_type(topic)[0]
        if key is not None:
            key = check_key(key, "idempotency_key")
        if self.headers is not None:
            check_instance(self.headers, Mapping, "headers")
        if self.delay_seconds is not None:
            object.__setattr__(self, "delay_seconds", check_delay(self.delay_seconds, "delay_seconds"))
        if not (destination_id is self.destination_id and topic is self.topic and key is self.idempotency_key):
            # Of a subclass of str the plain text counts.
            object.__setattr__(self, "destination_id", destination_id)
            object.__setattr__(self, "topic", topic)
            object.__setattr__(self, "idempotency_key", key)

    if TYPE_CHECKING:
        # The __init__ that the dataclass makes, typed so that type checkers compare the message with the type of its topic.
        @overload
        def __init__(
            self,
            destination_id: str,
            message: T,
            topic: Topic[T],
            idempotency_key: str | None = None,
            headers: Mapping[str, str] | None = None,
            delay_seconds: float | None = None,
        ) -> None: ...
        @overload
        def __init__(
            self,
            destination_id: str,
            message: Any,
            topic: str | None = None,
            idempotency_key: str | None = None,
            headers: Mapping[str, str] | None = None,
            delay_seconds: float | None = None,
        ) -> None: ...
        def __init__(
            self,
            destination_id: str,
            message: Any,
            topic: str | Topic[Any] | None = None,
            idempotency_key: str | None = None,
            headers: Mapping[str, str] | None = None,
            delay_seconds: float | None = None,
        ) -> None: ...
