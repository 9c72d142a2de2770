"""Databases of a server: their URLs, and new ones for a test or a round of the benchmarks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg


def with_database(url: str, name: str) -> str:
    """The URL of another database of the same server."""
    parts = urlsplit(url)
    # Without a host urlunsplit leaves out the two slashes, and what it returns is not a URL any more.
    return urlunsplit((parts.scheme, parts.netloc or "@", f"/{name}", parts.query, ""))


async def execute(url: str, *commands: str, **settings: str) -> Any:
    """Execute these on a connection of their own; the value of the last one."""
    connection = await asyncpg.connect(url, server_settings=settings)
    try:
        value = None
        for command in commands:
            value = await connection.fetchval(command)
        return value
    finally:
        await connection.close()


@asynccontextmanager
async def new_database(url: str, name: str, *, template: str = "template1") -> AsyncIterator[str]:
    """The URL of a new database, which is dropped at the end of the block."""
    await execute(url, f'create database "{name}" template "{template}"')
    try:
        yield with_database(url, name)
    finally:
        await execute(url, f'drop database "{name}" with (force)')
