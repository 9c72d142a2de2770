"""Ids that nobody has had before."""

from __future__ import annotations

import os
import time
from collections import deque
from uuid import UUID

from asyncpg.pgproto import pgproto

RANDOM_BYTES = 10
AT_ONCE = 256

_THEIR_BITS = 0xF << 76 | 0x3 << 62
_VERSION_AND_VARIANT = 0x7 << 76 | 0x2 << 62

_tails: deque[int] = deque()
"""What comes after the time, drawn for many ids at once."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_tails.clear)


def ordered_id() -> UUID:
    """A version 7 id: those that grow with time keep the index of a large table in one place."""
    while True:
        try:
            tail = _tails.popleft()
            break
        except IndexError:
            _draw()
    milliseconds = time.time_ns() // 1_000_000 & 0xFFFFFFFFFFFF
    # asyncpg's own kind of UUID equals the usual one, and is made and written in a tenth of the time.
    return pgproto.UUID((milliseconds << 80 | tail).to_bytes(16, "big"))


def _draw() -> None:
    drawn = os.urandom(AT_ONCE * RANDOM_BYTES)
    for start in range(0, len(drawn), RANDOM_BYTES):
        random = int.from_bytes(drawn[start : start + RANDOM_BYTES], "big")
        _tails.append(random & ~_THEIR_BITS | _VERSION_AND_VARIANT)
