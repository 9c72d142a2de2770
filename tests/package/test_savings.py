"""A saving that costs lines of code: this test fails when it stops paying."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from dbos_async._database.connection_kinds import RECEIVE_BYTES

RECEIVES = """
import socket, sys, time

one, other = socket.socketpair()
best = 1e9
for _ in range(20):
    started_at = time.perf_counter()
    for _ in range(500):
        one.send(b"x" * 200)
        other.recv(int(sys.argv[1]))
    best = min(best, (time.perf_counter() - started_at) / 500 * 1e6)
print(best)
"""


def microseconds_to_receive(buffer_bytes: int) -> float:
    """The time to receive a short answer, in a process of its own: what a process freed before changes malloc's choice."""
    command = [sys.executable, "-c", RECEIVES, str(buffer_bytes)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the cost is that of malloc in glibc")
def test_a_small_receive_buffer_saves_microseconds_for_each_answer() -> None:
    """For a buffer of 256 KiB, the default of asyncio, malloc asks the system for new memory at every read."""
    small, large = microseconds_to_receive(RECEIVE_BYTES), microseconds_to_receive(256 << 10)
    assert large - small > 2, (small, large)
