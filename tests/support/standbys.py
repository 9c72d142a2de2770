"""A primary with a standby that follows it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from tests.support.eventually import eventually
from tests.support.postgres import SMALL, Server

NAME = "s1"


@asynccontextmanager
async def primary_and_standby(*settings: str, is_synchronous: bool) -> AsyncIterator[tuple[Server, Server]]:
    """Both, until the end of the block. Without a synchronous standby the primary acknowledges nothing."""
    primary, standby = Server(*SMALL, *settings, tcp=True), Server(*SMALL, *settings, tcp=True)
    try:
        await primary.create()
        await standby.copy(primary, NAME)
        if is_synchronous:
            await primary.execute(f"alter system set synchronous_standby_names = '{NAME}'", "select pg_reload_conf()")
        state = "sync" if is_synchronous else "async"
        follows = f"select count(*) = 1 from pg_stat_replication where sync_state = '{state}' and state = 'streaming'"
        await eventually(lambda: primary.execute(follows))
        yield primary, standby
    finally:
        await standby.remove()
        await primary.remove()


async def caught_up(primary: Server, standby: Server) -> None:
    """Wait until the standby has all that the primary has now."""
    lsn = await primary.execute("select pg_current_wal_lsn()::text")
    await eventually(lambda: standby.execute(f"select pg_last_wal_replay_lsn() >= '{lsn}'::pg_lsn"))


def url_of(*hosts: str) -> str:
    """The URL that names these hosts."""
    return f"postgresql://postgres@{','.join(hosts)}/postgres"


def host_of(server: Server) -> str:
    """Host and port of a server."""
    return urlsplit(server.url).netloc.rpartition("@")[2]
