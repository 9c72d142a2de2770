"""Typed names: a `Topic` for messages, an `Event` and a `Stream`. Sender and receiver check values against their types."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

from dbos_async.errors import InvalidArgumentError

T = TypeVar("T")

MAX_KEY_LENGTH = 512
MAX_WAIT_SECONDS = 100 * 365 * 86400.0


@dataclass(frozen=True, init=False)
class _TypedKey(Generic[T]):
    name: str
    type: Any

    @overload
    def __init__(self, name: str, type: builtins.type[T]) -> None: ...
    @overload
    def __init__(self, name: str, type: Any) -> None: ...
    def __init__(self, name: str, type: Any) -> None:
        object.__setattr__(self, "name", check_key(name, f"The name of {_with_article(self)}"))
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


def key_and_type(key: str | _TypedKey[Any], what: str) -> tuple[str, Any]:
    """Return the name and the declared type of a key. The type is ``Any`` for a plain ``str``, which is checked first."""
    if isinstance(key, _TypedKey):
        return key.name, key.type
    return check_key(key, what), Any


def topic_and_type(topic: str | Topic[Any] | None) -> tuple[str, Any]:
    """Return the name and the declared type of a topic. For ``None`` the name is empty: the message has no topic."""
    return ("", Any) if topic is None else key_and_type(topic, "A topic")


def check_key(key: object, what: str) -> str:
    """Return the key if it is a ``str`` of 1 to 512 characters without NUL and lone surrogates, else raise `InvalidArgumentError`.

    ``what`` names the argument in the sentence of that error.
    """
    if not isinstance(key, str):
        raise InvalidArgumentError(f"{what} must be a str and is of type {type(key).__name__}: {key!r:.100}.")
    if not key:
        raise InvalidArgumentError(f"{what} must not be empty.")
    if len(key) > MAX_KEY_LENGTH:
        raise InvalidArgumentError(
            f"{what} must have at most {MAX_KEY_LENGTH} characters and has {len(key)}: {key[:40]!r}…."
        )
    if "\0" in key:
        raise InvalidArgumentError(f"{what} must not contain the NUL character: {key[:100]!r}.")
    try:
        key.encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError(f"{what} must be valid Unicode and has a lone surrogate: {key[:100]!r}.") from None
    return key


def check_version(version: object) -> str | None:
    """Return an ``application_version`` if it is ``None`` or a text that can be a key, else raise `InvalidArgumentError`."""
    return None if version is None else check_key(version, "application_version")


def check_seconds(seconds: object, what: str = "timeout_seconds") -> float | None:
    """Return a time to wait if it is a number of at least 0, else raise `InvalidArgumentError`.

    ``None``, and any time beyond a hundred years, means no limit and is returned as ``None``.
    """
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds >= 0:
        raise InvalidArgumentError(
            f"{what} must be a number of seconds of at least 0, or None, and is {seconds!r:.100}."
        )
    return None if seconds > MAX_WAIT_SECONDS else float(seconds)


def check_duration(seconds: object, what: str) -> float:
    """Return a time that has to be given if it is a number of at least 0, else raise `InvalidArgumentError`."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds >= 0:
        raise InvalidArgumentError(f"{what} must be a number of seconds of at least 0 and is {seconds!r:.100}.")
    return float(seconds)


def check_int(number: object, minimum: int, what: str) -> int:
    """Return the number if it is an ``int`` from ``minimum`` to 2³¹ - 1, else raise `InvalidArgumentError`."""
    if isinstance(number, bool) or not isinstance(number, int) or not minimum <= number < 2**31:
        raise InvalidArgumentError(f"{what} must be a whole number of at least {minimum} and is {number!r:.100}.")
    return number


def check_bool(value: object, what: str) -> bool:
    """Return the value if it is a ``bool``, else raise `InvalidArgumentError`."""
    if not isinstance(value, bool):
        raise InvalidArgumentError(f"{what} must be True or False and is {value!r:.100}.")
    return value


def _with_article(key: _TypedKey[Any]) -> str:
    kind = builtins.type(key).__name__.lower()
    return f"an {kind}" if kind == "event" else f"a {kind}"
