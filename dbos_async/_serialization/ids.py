"""Unique ids for workflows and messages."""

from __future__ import annotations

import os
from hashlib import md5
from random import Random
from time import time_ns
from uuid import UUID

from asyncpg.pgproto import pgproto

# A version 7 id has 48 bits of time, 4 of version, 12 random ones, 2 of variant and 62 random ones.
_VERSION_AND_VARIANT = 0x7 << 76 | 0x2 << 62
_RANDOM_BITS = 0xFFF << 64 | (1 << 62) - 1

# The system seeds this generator, not the program, as it may seed the one of the module. It takes a tenth of os.urandom's time.
_generator = Random()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_generator.seed)


def ordered_id() -> UUID:
    """Return a new version 7 id. Such ids grow with time, so that new rows of a table share the same pages of its index."""
    milliseconds = time_ns() // 1_000_000
    random_part = _generator.getrandbits(80) & _RANDOM_BITS
    # asyncpg's UUID equals the one of the standard library; it takes a tenth of the time to make and to send.
    return pgproto.UUID((milliseconds << 80 | _VERSION_AND_VARIANT | random_part).to_bytes(16, "big"))


def copied_id(fork_id: str, message_id: UUID) -> UUID:
    """Return the id of the copy of a message that a fork has: as FORK makes it."""
    return UUID(md5(f"{fork_id}{message_id}".encode(), usedforsecurity=False).hexdigest())
