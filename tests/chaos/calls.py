"""Calls from outside, which are called again until the database was there, and must keep their promises meanwhile."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import asyncpg

from dbos_async import DatabaseUnavailableError, DBOSClient, DBOSError
from tests.chaos.facts import Tally
from tests.chaos.ways import Way

T = TypeVar("T")

CONNECT_TIMEOUT_SECONDS = 2.0
LATE_SECONDS = 15.0
"""So long a call may take that is to give up after two seconds: most of that is this machine's load."""


async def persist(tally: Tally, call: Callable[[], Awaitable[T]], *, limited: str = "") -> T:
    """Call until the database was there; what may have been committed is simply called again.

    An error of asyncpg is a violation, and so is a call of a limited kind, which is named, that does not give up in time.
    """
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        try:
            return await call()
        except DatabaseUnavailableError:
            tally.repeats += 1
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            note_once(tally, f"D4: a call outside raised asyncpg's {type(error).__name__}: {error}")
            await asyncio.sleep(0.2)
        finally:
            if limited and loop.time() - began > LATE_SECONDS:
                note_once(tally, f"W10: {limited}, which gives up after two seconds, took {loop.time() - began:.0f} s.")


def note_once(tally: Tally, violation: str) -> None:
    """Note a violation, unless one is noted that differs in numbers alone."""
    pattern = re.compile(r"\d+")
    if pattern.sub("0", violation) not in {pattern.sub("0", known) for known in tally.violations}:
        tally.violations.append(violation)


@asynccontextmanager
async def open_client(
    way: Way, tally: Tally, *, connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS
) -> AsyncIterator[DBOSClient]:
    """A client, as soon as the database is there and lets it in."""
    while True:
        client = DBOSClient(way.url, **way.options, connect_timeout_seconds=connect_timeout_seconds)
        try:
            await client.__aenter__()
        except DBOSError:  # It is away, or does not let the client read the schema.
            tally.repeats += 1
            await asyncio.sleep(0.1)
        except asyncpg.PostgresError as error:
            note_once(tally, f"D4: opening a client raised asyncpg's {type(error).__name__}: {error}")
            await asyncio.sleep(0.2)
        else:
            break
    try:
        yield client
    finally:
        await client.__aexit__(None, None, None)
