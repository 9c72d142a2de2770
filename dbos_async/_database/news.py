"""News: what changed, told in the notification itself, so that who waits for it need not read it.

A payload is ``=`` and then one piece of news after the other: the digest of the key in hex, a letter, numbers, the lengths of the
texts in characters, and the texts, as in ``=0123456789abcdefv1000001,5:1,4:7true``. A length of ``-`` stands for null. After a
``.`` in the place of the letter nothing follows: there is something to read, which is too long to be told, or no value.

``v``  values of a stream: the attempt of the writer, the offset of the first one
``c``  the end of a stream, at this offset
``e``  a value of an event: the attempt, the version, when it was set in microseconds since 1970
``r``  the end of a workflow: the attempt; the status, the output, the error
``h``  a message that a step has received: the attempt of its run, and its number; the id, the payload, the headers

What is told here was committed, in the order in which it comes. It may be older than what its reader has read, also of an earlier
workflow of the same id, so the reader compares.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

NEWS: Final = "="
_DIGEST_HEX_DIGITS: Final = 16
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class StreamNews(NamedTuple):
    """Values that were written to a stream; ``None``: it was closed."""

    attempt: int
    offset: int
    values: tuple[str, ...] | None
    key: bytes


class EventNews(NamedTuple):
    """A version of an event."""

    attempt: int
    version: int
    set_at: datetime
    text: str


class EndNews(NamedTuple):
    """How a workflow has ended."""

    attempt: int
    status: str
    output: str | None
    error: str | None
    key: bytes


class HandedNews(NamedTuple):
    """A message that a sender has handed to a step of a main task: the step is complete, and has received it."""

    attempt: int
    number: int
    message_id: UUID
    payload: str
    headers: str | None
    key: bytes


News = StreamNews | EventNews | EndNews | HandedNews


class Told(NamedTuple):
    """One piece of a payload: the key behind which something changed, and what, if that is told, with its size."""

    key: bytes
    news: News | None
    size: int


def read_news(payload: str) -> Iterator[Told]:
    """The pieces of a payload. Raises `ValueError` if it is not one of ours."""
    at, end = len(NEWS), len(payload)
    while at < end:
        key = bytes.fromhex(payload[at : at + _DIGEST_HEX_DIGITS])
        at += _DIGEST_HEX_DIGITS
        kind = payload[at : at + 1]
        at += 1
        if kind == ".":
            yield Told(key, None, 0)
            continue
        numbers_end = payload.index(":", at)
        lengths_end = payload.index(":", numbers_end + 1)
        numbers = [int(number) for number in payload[at:numbers_end].split(",")]
        lengths = payload[numbers_end + 1 : lengths_end]
        begin = at = lengths_end + 1
        texts: list[str | None] = []
        for length in lengths.split(",") if lengths else ():
            if length == "-":
                texts.append(None)
                continue
            texts.append(payload[at : at + int(length)])
            at += int(length)
        if at > end:
            raise ValueError("the payload ends within a text")
        yield Told(key, _made(key, kind, numbers, texts), at - begin)


def _made(key: bytes, kind: str, numbers: list[int], texts: list[str | None]) -> News:
    if kind == "v":
        attempt, offset = numbers
        return StreamNews(attempt, offset, tuple([text or "" for text in texts]), key)
    if kind == "c":
        attempt, offset = numbers
        return StreamNews(attempt, offset, None, key)
    if kind == "e":
        attempt, version, microseconds = numbers
        (text,) = texts
        return EventNews(attempt, version, _EPOCH + timedelta(microseconds=microseconds), text or "")
    if kind == "r":
        (attempt,) = numbers
        status, output, error = texts
        return EndNews(attempt, status or "", output, error, key)
    if kind == "h":
        attempt, number = numbers
        message_id, payload, headers = texts
        return HandedNews(attempt, number, UUID(message_id or ""), payload or "", headers, key)
    raise ValueError(f"nobody tells news of the kind {kind!r}")
