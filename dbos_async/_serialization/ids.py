"""Unique ids for workflows and messages."""

from __future__ import annotations

from os import urandom
from time import time_ns
from uuid import UUID

from asyncpg.pgproto import pgproto

# A version 7 id has 48 bits of time, 4 of version, 12 random ones, 2 of variant and 62 random ones.
_VERSION_AND_VARIANT = 0x7 << 76 | 0x2 << 62
_RANDOM_BITS = 0xFFF << 64 | (1 << 62) - 1


def ordered_id() -> UUID:
    """Return a new version 7 id. Such ids grow with time, so that new rows of a table share the same pages of its index."""
    milliseconds = time_ns() // 1_000_000
    random_part = int.from_bytes(urandom(10), "big") & _RANDOM_BITS
    # asyncpg's UUID equals the one of the standard library; it takes a tenth of the time to make and to send.
    return pgproto.UUID((milliseconds << 80 | _VERSION_AND_VARIANT | random_part).to_bytes(16, "big"))
