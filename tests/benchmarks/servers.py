"""Servers of other makers for one turn: on a free port of 127.0.0.1, in a folder of their own, ended by their process id."""

from __future__ import annotations

import asyncio
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

START_SECONDS = 20.0


class PeerMissingError(Exception):
    """A server or package that a peer needs is not on this machine, or is too old."""


def program(name: str) -> str:
    """Where it is: of this environment (PyPI has some servers as wheels), else of the machine."""
    found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    if found is None:
        raise PeerMissingError(f"there is no program {name}")
    return found


@asynccontextmanager
async def folder() -> AsyncIterator[Path]:
    """A new folder on the disk that Postgres has its data on, too."""
    with tempfile.TemporaryDirectory(prefix="dbos-benchmarks-peer-") as name:
        yield Path(name)


@asynccontextmanager
async def running(*command: str, port: int, place: Path) -> AsyncIterator[None]:
    """Start it, wait until it listens, and end it afterwards."""
    log = place / "output"
    with log.open("w") as output:
        process = await asyncio.create_subprocess_exec(*command, cwd=place, stdout=output, stderr=output)
    try:
        async with asyncio.timeout(START_SECONDS):
            while not await _listens(port):
                if process.returncode is not None:
                    raise PeerMissingError(f"{Path(command[0]).name} did not start: {_last_line(log)}")
                await asyncio.sleep(0.02)
        yield
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(START_SECONDS):
                    await process.wait()
            except TimeoutError:
                print(f"{command[0]} does not end, and is killed", file=sys.stderr)
                process.kill()
                await process.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def _last_line(log: Path) -> str:
    return (log.read_text().strip().splitlines() or ["without a word"])[-1]
