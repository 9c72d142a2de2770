"""Keys of changes for which anybody may wait, and not only the owner of the workflow: how they are heard."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

GROUPS: Final = 16
"""On so many channels these changes are announced."""


class SharedKey(bytes):
    """The key of such a change: a process listens to its channel while somebody waits there."""

    __slots__ = ()

    @property
    def group(self) -> int:
        """The number of its channel."""
        return self[0] >> 4


class Source(Protocol):
    """What brings the changes that other processes make: it hears of them, or asks for them."""

    def begin(self, keys: Sequence[bytes]) -> asyncio.Event | None:
        """Somebody waits for these keys. ``None`` if their changes are heard; else the event is set when they are.

        It is also set when they cannot be heard at present: then every waiter is woken when they can.
        """
        ...

    def end(self, key: bytes) -> None:
        """The last one who waited for this key has left."""

    def begin_run(self, key: bytes, workflow_id: str, attempt: int) -> None:
        """A run of this workflow has begun; the key is that of its end."""

    def end_run(self, key: bytes) -> None:
        """It is over."""
