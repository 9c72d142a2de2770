"""Ids that nobody has had before."""

from __future__ import annotations

import os
import time
from uuid import UUID


def ordered_id() -> UUID:
    """A version 7 id: those that grow with time keep the index of a large table in one place."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    value = (milliseconds & 0xFFFFFFFFFFFF) << 80 | random
    return UUID(int=value & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62)
