"""Typed names: a `Topic` for messages, an `Event` and a `Stream`. Sender and receiver check values against their types."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from dbos_async._checks import check_key, excerpt
from dbos_async._serialization.signature import check_declared
from dbos_async.errors import InvalidArgumentError

if TYPE_CHECKING:
    from dbos_async._received import Asked, Envelope

T = TypeVar("T")
Q = TypeVar("Q")
A = TypeVar("A")


@dataclass(frozen=True, init=False)
class _TypedKey(Generic[T]):
    name: str
    type: Any

    @overload
    def __init__(self, name: str, type: builtins.type[T]) -> None: ...
    @overload
    def __init__(self, name: str, type: Any) -> None: ...
    def __init__(self, name: str, type: Any) -> None:
        kind = _with_article(self)
        object.__setattr__(self, "name", check_key(name, f"The name of {kind}"))
        check_declared(type, f"The type of {kind}")
        object.__setattr__(self, "type", type)


@dataclass(frozen=True, init=False)
class Topic(_TypedKey[T]):
    """A topic whose messages have a type. Pass it wherever a verb takes a topic.

    The sender checks the message before it is stored, and the receiver gets it back as the declared type::

        class Paid(BaseModel):
            cents: int

        PAID = Topic("paid", Paid)

        await DBOS.send("order-17", Paid(cents=1000), PAID)
        paid = await DBOS.recv(PAID)  # Paid | None, also for type checkers

    For a union, or another type that is not a class, name the type twice: ``Topic[int | str]("answer", int | str)``.
    A name that cannot be a key (see the guarantee D3) raises `InvalidArgumentError`.
    """

    if TYPE_CHECKING:

        def _brings(self) -> Envelope[T]: ...


@dataclass(frozen=True, init=False)
class Question(Topic[Q], Generic[Q, A]):
    """A topic whose messages want an answer, with the types of both::

    QUOTE = Question("quote", str, int)

    cents = await DBOS.ask("shop-1", QUOTE, "a widget")  # int
    """

    answer_type: Any

    @overload
    def __init__(self, name: str, type: builtins.type[Q], answer_type: builtins.type[A]) -> None: ...
    @overload
    def __init__(self, name: str, type: Any, answer_type: Any) -> None: ...
    def __init__(self, name: str, type: Any, answer_type: Any) -> None:
        super().__init__(name, type)
        check_declared(answer_type, "The type of the answer to a question")
        object.__setattr__(self, "answer_type", answer_type)

    if TYPE_CHECKING:

        def _brings(self) -> Asked[Q, A]: ...


@dataclass(frozen=True, init=False)
class Event(_TypedKey[T]):
    """An event whose values have a type. Pass it wherever a verb takes the key of an event::

        PAYMENT_ID = Event("payment_id", str)

        await DBOS.set_event(PAYMENT_ID, "p-42")
        payment_id = await DBOS.get_event("order-17", PAYMENT_ID)  # str | None

    A value that does not fit the type raises `InvalidValueError`, and the event keeps the value that it had.
    """


@dataclass(frozen=True, init=False)
class Stream(_TypedKey[T]):
    """A stream whose values have a type. Pass it wherever a verb takes the key of a stream::

        PROGRESS = Stream("progress", int)

        await DBOS.write_stream(PROGRESS, 50)
        await DBOS.close_stream(PROGRESS)
        async for percent in DBOS.read_stream("order-17", PROGRESS):  # int
            print(percent)

    A value that does not fit the type raises `InvalidValueError`, and nothing is written.
    """


def key_and_type(key: object, kind: type[_TypedKey[Any]]) -> tuple[str, Any]:
    """Return the name and the declared type of a topic, an event or a stream. The type of a plain ``str`` is ``Any``."""
    if isinstance(key, kind):
        return key.name, key.type
    if isinstance(key, _TypedKey):
        raise InvalidArgumentError(f"{_ROLES[kind]} must be a str or made by {kind.__name__}(…) and is {excerpt(key)}.")
    return check_key(key, _ROLES[kind]), Any


def topic_and_type(topic: str | Topic[Any] | None) -> tuple[str, Any]:
    """Return the name and the declared type of a topic. For ``None`` the name is empty: the message has no topic."""
    return ("", Any) if topic is None else key_and_type(topic, Topic)


_ROLES: dict[type[_TypedKey[Any]], str] = {
    Topic: "A topic", Event: "The key of an event", Stream: "The key of a stream"
}  # fmt: skip


def _with_article(key: _TypedKey[Any]) -> str:
    kind = builtins.type(key).__name__.lower()
    return f"an {kind}" if kind == "event" else f"a {kind}"
