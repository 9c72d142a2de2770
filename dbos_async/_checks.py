"""The checks of what users pass. Every public function, constructor and decorator checks its arguments with these, before it acts.

A check returns the argument as the library goes on with it: a plain ``str``, ``int``, ``float`` or ``datetime``, not a subclass,
since an enum and its text, for example, are written differently. An argument that cannot be used raises `InvalidArgumentError`,
whose sentence begins with ``what``, the name of the argument.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from dbos_async._logs import shown
from dbos_async.errors import InvalidArgumentError, WrongPlaceError

MAX_KEY_LENGTH = 512
MAX_INT = 2**31 - 1
MAX_PORT = 65535
MAX_WAIT_SECONDS = 100 * 365 * 86400.0
MAX_EXCERPT_LENGTH = 100

_UNITS: Final = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(s|min|m|h|d|w)")


def excerpt(value: object) -> str:
    """Return the beginning of a value's ``repr`` as one line, for a sentence. Never raises."""
    try:
        text = repr(value[: 2 * MAX_EXCERPT_LENGTH] if type(value) is str else value)
    except Exception:  # The __repr__ of a user's class may raise anything, and that of a very long int raises, too.
        text = f"<{type(value).__name__}>"
    return shown(text[:MAX_EXCERPT_LENGTH])


def kind_of(value: object) -> str:
    """Return the name of a value's type, for a sentence."""
    return shown(type(value).__name__[:MAX_EXCERPT_LENGTH])


def check_key(key: object, what: str) -> str:
    """Return a key if it is a ``str`` of 1 to 512 characters without NUL and lone surrogates."""
    if type(key) is not str:
        key = _plain_str(key, what)
    if not key:
        raise InvalidArgumentError(f"{what} must not be empty.")
    return _stored(key, what)


def check_optional_key(key: object, what: str) -> str | None:
    """Return ``None`` for ``None``, else what `check_key` returns."""
    return None if key is None else check_key(key, what)


def check_keys(keys: object, what: str) -> list[str]:
    """Return a list of keys, if it is one key or several."""
    return [check_key(key, what) for key in _several(keys, what)]


def check_text(text: object, what: str) -> str:
    """Return a text that is like a key, but may be empty."""
    return _stored(text if type(text) is str else _plain_str(text, what), what)


def check_url(url: object) -> str:
    """Return the URL of a database, without blanks around it, if it is a text. The sentence of the error never shows it: it may
    have a password.
    """
    what = "The URL of the database"
    if not isinstance(url, str):
        raise InvalidArgumentError(f"{what} must be a str and is of type {kind_of(url)}: write postgresql://….")
    url = str.__str__(url).strip()
    if not url:
        raise InvalidArgumentError(f"{what} must not be empty: write postgresql://…, or pass none at all.")
    if "\0" in url or not _is_unicode(url):
        raise InvalidArgumentError(f"{what} must have neither a NUL character nor a lone surrogate.")
    hosts = re.split("[/?#]", url.partition("://")[2], maxsplit=1)[0].rpartition("@")[2]
    if any(len(port) > 5 or not 0 < int(port) <= MAX_PORT for port in re.findall(":([0-9]+)(?=,|$)", hosts)):
        raise InvalidArgumentError(
            f"{what} must have ports from 1 to {MAX_PORT}: any other would be cut to one of them."
        )
    return url


def check_choice(value: object, choices: Sequence[str], what: str) -> str:
    """Return a text if it is one of these."""
    if not isinstance(value, str) or str.__str__(value) not in choices:
        raise InvalidArgumentError(f"{what} must be one of {', '.join(choices)} and is {excerpt(value)}.")
    return str.__str__(value)


def check_choices(values: object, choices: Sequence[str], what: str) -> list[str]:
    """Return a list of texts, if it is one or several of these."""
    return [check_choice(value, choices, what) for value in _several(values, what)]


def check_flag(value: object, what: str) -> bool:
    """Return a ``bool``."""
    if not isinstance(value, bool):
        raise InvalidArgumentError(f"{what} must be True or False and is {excerpt(value)}.")
    return value


def check_int(number: object, minimum: int, what: str, maximum: int = MAX_INT) -> int:
    """Return an ``int`` from ``minimum`` to ``maximum``, by default 2³¹ - 1."""
    if isinstance(number, bool) or not isinstance(number, int) or not minimum <= number <= maximum:
        limit = f" and at most {maximum}" if isinstance(number, int) and number > maximum else ""
        raise InvalidArgumentError(
            f"{what} must be a whole number of at least {minimum}{limit} and is {excerpt(number)}."
        )
    return int(number)


def check_number(number: object, what: str) -> float:
    """Return a finite number of at least 0."""
    found = _plain_float(number)
    if found is None or not 0 <= found < math.inf:
        raise InvalidArgumentError(f"{what} must be a number of at least 0 and is {excerpt(number)}.")
    return found


def check_seconds(seconds: object, what: str = "timeout_seconds") -> float | None:
    """Return how long to wait, a number of at least 0. ``None``, and any time beyond a hundred years, means no limit: ``None``."""
    if seconds is None:
        return None
    found = _plain_float(seconds)
    if found is None or not found >= 0:
        raise InvalidArgumentError(
            f"{what} must be a number of seconds of at least 0, or None, and is {excerpt(seconds)}."
        )
    return None if found > MAX_WAIT_SECONDS else found


def check_duration(seconds: object, what: str, *, least: float = 0, most: float = math.inf) -> float:
    """Return a number of seconds that has to be given."""
    found = _plain_float(seconds)
    if found is None or not least <= found <= most:
        limit = "" if most == math.inf else f" and at most {most:.0f}"
        raise InvalidArgumentError(
            f"{what} must be a number of seconds of at least {least:g}{limit} and is {excerpt(seconds)}."
        )
    return found


def check_delay(seconds: object, what: str) -> float | None:
    """Return how long to wait before something happens, at most a hundred years. ``None`` and 0 mean not at all: ``None``."""
    return None if seconds is None else check_duration(seconds, what, most=MAX_WAIT_SECONDS) or None


def seconds_in(text: str) -> float | None:
    """Return the seconds of a text that a person typed: ``90s``, ``15m``, ``1.5h``, ``2d`` or ``1w``; ``None`` for any other."""
    found = _DURATION.fullmatch(text.strip().replace(" ", ""))
    return None if found is None else float(found[1]) * _UNITS[found[2]]


def check_age(age: object, what: str, *, least: float = 0) -> float:
    """Return a ``timedelta`` or a number of seconds as seconds, at most a hundred years."""
    found = timedelta.total_seconds(age) if isinstance(age, timedelta) else _plain_float(age)
    if found is None or not least <= found <= MAX_WAIT_SECONDS:
        raise InvalidArgumentError(
            f"{what} must be a timedelta or a number of seconds, at least {least:g} s and at most a hundred years, "
            f"and is {excerpt(age)}."
        )
    return found


def check_moment(moment: object, what: str) -> datetime | None:
    """Return a time in UTC; ``None`` for ``None``. A ``datetime`` without a time zone is no moment."""
    if moment is None:
        return None
    try:
        if isinstance(moment, datetime) and moment.utcoffset() is not None:
            utc = moment.astimezone(UTC)
            return datetime(utc.year, utc.month, utc.day, utc.hour, utc.minute, utc.second, utc.microsecond, UTC)
    except Exception:  # A time zone of the user may raise anything; and the ends of the calendar have no time in UTC.
        reason = "is none that UTC has"
    else:
        reason = "is none"
    raise InvalidArgumentError(f"{what} must be a datetime with a time zone, and {excerpt(moment)} {reason}.")


def check_folder(folder: object, what: str) -> Path:
    """Return the path of a folder."""
    if not isinstance(folder, (str, Path)):
        raise InvalidArgumentError(f"{what} must be a Path or a str and is of type {kind_of(folder)}.")
    if not str(folder) or "\0" in str(folder):
        raise InvalidArgumentError(f"{what} must be the path of a folder and is {excerpt(str(folder))}.")
    return Path(folder)


def check_list(values: object, what: str) -> list[Any]:
    """Return the elements of a collection. A text, bytes and a mapping are more likely mistaken than meant."""
    if isinstance(values, (str, bytes, bytearray, Mapping)) or not isinstance(values, Iterable):
        raise InvalidArgumentError(f"{what} must be a list and is of type {kind_of(values)}.")
    return list(values)


def check_instance(value: object, kind: type[Any], what: str) -> None:
    """Raise unless the value is of this class."""
    if not isinstance(value, kind):
        raise InvalidArgumentError(f"{what} must be of type {kind.__name__} and is of type {kind_of(value)}.")


def check_callable(value: object, what: str) -> None:
    """Raise unless the value can be called."""
    if not callable(value):
        raise InvalidArgumentError(f"{what} must be a function and is of type {kind_of(value)}.")


def check_loop(loop: asyncio.AbstractEventLoop, sentence: str) -> None:
    """Raise `WrongPlaceError` with this sentence unless this event loop runs here."""
    if running_loop() is not loop:
        raise WrongPlaceError(sentence)


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs in this thread, ``None`` when there is none."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _several(values: object, what: str) -> Iterable[object]:
    """One text, or the elements of a collection, which may be empty. A mapping and bytes are more likely mistaken than meant."""
    if isinstance(values, str):
        return (values,)
    if not isinstance(values, Iterable) or isinstance(values, (Mapping, bytes, bytearray)):
        raise InvalidArgumentError(f"{what} must be a str or several, and is of type {kind_of(values)}.")
    return values


def _plain_str(text: object, what: str) -> str:
    if not isinstance(text, str):
        raise InvalidArgumentError(f"{what} must be a str and is of type {kind_of(text)}: {excerpt(text)}.")
    return str.__str__(text)


def _stored(text: str, what: str) -> str:
    """A text as Postgres can store it."""
    if len(text) > MAX_KEY_LENGTH:
        raise InvalidArgumentError(
            f"{what} must have at most {MAX_KEY_LENGTH} characters and has {len(text)}: {text[:40]!r}…."
        )
    if "\0" in text:
        raise InvalidArgumentError(f"{what} must not contain the NUL character: {excerpt(text)}.")
    if not text.isascii() and not _is_unicode(text):
        raise InvalidArgumentError(f"{what} must be valid Unicode and has a lone surrogate: {excerpt(text)}.")
    return text


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _plain_float(number: object) -> float | None:
    """The number as a ``float``, ``None`` for what is no number; an ``int`` beyond the floats is an infinity."""
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        return None
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf
