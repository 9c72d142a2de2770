"""Names with a type: what is sent under a `Topic`, set under an `Event` or written to a `Stream` is checked on both sides."""

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
        object.__setattr__(self, "name", check_key(name, f"The name of {_article(self)}"))
        object.__setattr__(self, "type", type)


@dataclass(frozen=True, init=False)
class Topic(_TypedKey[T]):
    """A topic whose messages have a type: ``PAID = Topic("payment_status", PaymentStatus)``.

    Use it wherever a topic is asked for; for a union or another form that is no class say the type twice:
    ``Topic[A | B]("answer", A | B)``. The sender's value is checked before it is stored,
    the receiver gets it back as the declared type.
    """


@dataclass(frozen=True, init=False)
class Event(_TypedKey[T]):
    """An event whose values have a type: ``PAYMENT_ID = Event("payment_id", str)``."""


@dataclass(frozen=True, init=False)
class Stream(_TypedKey[T]):
    """A stream whose values have a type: ``PROGRESS = Stream("progress", Progress)``."""


def key_and_type(key: str | _TypedKey[Any], what: str) -> tuple[str, Any]:
    """The name and the declared type of a key; a plain ``str`` declares none."""
    if isinstance(key, _TypedKey):
        return key.name, key.type
    return check_key(key, what), Any


def check_key(key: object, what: str) -> str:
    """The key, if it is one: a text of 1 to 512 characters without NUL that UTF-8 can carry."""
    if not isinstance(key, str):
        raise InvalidArgumentError(f"{what} must be a str and is a {type(key).__name__}: {key!r:.100}.")
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


def check_seconds(seconds: object, what: str = "timeout_seconds") -> float | None:
    """A time to wait, if it is one: a number of at least 0; ``None`` (or infinity) for as long as it takes."""
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds >= 0:
        raise InvalidArgumentError(
            f"{what} must be a number of seconds of at least 0, or None, and is {seconds!r:.100}."
        )
    return None if seconds > MAX_WAIT_SECONDS else float(seconds)


def check_int(number: object, least: int, what: str) -> int:
    """The number, if it is a whole one from ``least`` to the largest that a column holds."""
    if isinstance(number, bool) or not isinstance(number, int) or not least <= number < 2**31:
        raise InvalidArgumentError(f"{what} must be a whole number of at least {least} and is {number!r:.100}.")
    return number


def _article(key: _TypedKey[Any]) -> str:
    kind = builtins.type(key).__name__.lower()
    return f"an {kind}" if kind == "event" else f"a {kind}"
