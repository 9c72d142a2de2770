"""The keys of changes: eight bytes that name what changed in notifications, and by which waiters are found.

Who hears a notification needs no more. A process that polls instead has to ask the database by name. So once something polls in a
process (`polling.py`), its keys know what they stand for.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import Final, Literal
from uuid import UUID

from dbos_async._database.shared_keys import SharedKey

MAX_REMEMBERED = 2048

Kind = Literal["message", "event", "stream", "answer", "end", "unowned", "due", "step"]
"""The kinds of keys. The statement POLL knows each, but for those of ``LOCAL``."""

LOCAL: Final[frozenset[Kind]] = frozenset({"due", "step"})
"""The kinds of changes that a process tells itself alone."""


class NamedKey(bytes):
    """A key that knows its kind and its names. It equals its bytes."""

    kind: Kind
    names: tuple[str, ...]

    @classmethod
    def of(cls, digest: bytes, kind: Kind, *names: str) -> NamedKey:
        """The key with these bytes."""
        key = cls(digest)
        key.kind, key.names = kind, names
        return key


class NamedSharedKey(NamedKey, SharedKey):
    """Both."""


class _Process:
    """What holds for all databases that this process has opened."""

    __slots__ = ("names_keys",)

    def __init__(self) -> None:
        self.names_keys = False
        """Whether new keys know their names. Those that do take 200 bytes more, so a process that only listens has none."""


_process: Final = _Process()


def name_keys() -> None:
    """Let all keys that are made from now on know their names."""
    if not _process.names_keys:
        _process.names_keys = True
        for function in (message_key, event_key, stream_key):
            function.cache_clear()


def digest(kind: Kind, *names: str) -> bytes:
    """The fixed-size name of a key in notifications: what changed, and whose it is."""
    key = _hashed(kind, *names)
    return NamedKey.of(key, kind, *names) if _process.names_keys else key


def _hashed(kind: Kind, *names: str) -> bytes:
    text = kind + "".join([f"\0{len(name)}\0{name}" for name in names])
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _shared(key: bytes, kind: Kind, *names: str) -> bytes:
    return NamedSharedKey.of(key, kind, *names) if _process.names_keys else SharedKey(key)


@lru_cache(MAX_REMEMBERED)
def message_key(workflow_id: str, topic: str) -> bytes:
    """Changes when a message for this workflow and topic is stored."""
    return digest("message", workflow_id, topic)


@lru_cache(MAX_REMEMBERED)
def event_key(workflow_id: str, key: str) -> bytes:
    """Changes when this event of the workflow is set."""
    return _shared(_hashed("event", workflow_id, key), "event", workflow_id, key)


@lru_cache(MAX_REMEMBERED)
def stream_key(workflow_id: str, key: str) -> bytes:
    """Changes when this stream of the workflow is written or closed."""
    return _shared(_hashed("stream", workflow_id, key), "stream", workflow_id, key)


def answer_key(message_id: UUID) -> bytes:
    """Changes when this message is answered. The statement that answers makes it, too: the last eight bytes of the id."""
    return _shared(message_id.bytes[8:], "answer", str(message_id))


def end_key(workflow_id: str) -> bytes:
    """Changes when the workflow ends."""
    # Written out, since every workflow needs one.
    key = blake2b(f"end\0{len(workflow_id)}\0{workflow_id}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return _shared(key, "end", workflow_id)


UNOWNED_KEY: Final[bytes] = NamedKey.of(digest("unowned"), "unowned")
"""Changes when there is a workflow that nobody owns."""

DUE_KEY: Final[bytes] = NamedKey.of(digest("due"), "due")
"""Changes in a process when something is due that it knows of: a deadline, a delayed message or a delayed start."""
