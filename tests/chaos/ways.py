"""The ways to the server of the fault suite: directly with a role for each process, or all with one role through one PgBouncer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from tests.chaos.ground import APPLICATION, as_role
from tests.support.listening import POLLS, Options, options_of
from tests.support.pgbouncer import PgBouncer
from tests.support.postgres import Server
from tests.support.proxy import Proxy

PoolerUse: TypeAlias = Literal["listen_url", "polling"]
"""What goes around the pooler: what listens, or nothing, since nobody listens."""

CONSOLE: Final = "pgbouncer"
"""The user, and the database, of PgBouncer's console."""


@dataclass(frozen=True)
class Way:
    """The URL of one process, and how it listens: as `options_of` has it."""

    url: str
    words: tuple[str, ...] = ()

    @property
    def options(self) -> Options:
        return options_of(list(self.words))


@dataclass(frozen=True)
class Ways:
    """Every process's way to one server."""

    server: Server
    pooler: PgBouncer | None = None
    use: PoolerUse = "listen_url"

    def of(self, name: str) -> Way:
        """The way of a process. Through a pooler all have the same role, and share its connections to the server."""
        if self.pooler is None:
            return Way(as_role(self.server.url, name))
        direct = as_role(self.server.url, APPLICATION)
        return Way(self.pooler.url_of(direct), (POLLS if self.use == "polling" else direct,))

    def roles(self, *names: str) -> str:
        """The statements that make what these processes log in as."""
        if self.pooler is not None:
            return f"alter role {APPLICATION} login;"
        return "".join(f'create role "{name}" login in role {APPLICATION};' for name in names)


@asynccontextmanager
async def ways_to(server: Server, use: PoolerUse | None) -> AsyncIterator[Ways]:
    """The ways to a server. The pooler has the settings of a package that was just installed, but soon tries again to log in."""
    if use is None:
        yield Ways(server)
        return
    pooler = PgBouncer(
        as_role(server.url, APPLICATION), pool_mode="transaction", server_login_retry="1", admin_users=CONSOLE
    )
    try:
        await asyncio.to_thread(pooler.start)
        yield Ways(server, pooler, use)
    finally:
        await asyncio.to_thread(pooler.remove)


class Proxies:
    """The proxies of one process, before the server and before the pooler, if it uses both. What happens to one happens to all."""

    def __init__(self, way: Way) -> None:
        urls = [way.url, *(word for word in way.words if word != POLLS)]
        self._proxies = [Proxy(url) for url in urls]
        self._is_direct = not way.words

    @property
    def way(self) -> Way:
        """The way through them, once they are open."""
        url, *listen_urls = (proxy.url for proxy in self._proxies)
        return Way(url, () if self._is_direct else tuple(listen_urls or [POLLS]))

    async def open(self) -> None:
        for proxy in self._proxies:
            await proxy.open()

    async def close(self) -> None:
        for proxy in self._proxies:
            await proxy.close()

    def cut(self, share: float = 1.0) -> None:
        for proxy in self._proxies:
            proxy.cut(share)

    def hold(self) -> None:
        for proxy in self._proxies:
            proxy.hold()

    def refuse(self) -> None:
        for proxy in self._proxies:
            proxy.refuse()

    async def heal(self) -> None:
        for proxy in self._proxies:
            await proxy.heal()

    async def orphan(self, gather_seconds: float, late_seconds: float) -> None:
        await asyncio.gather(*(proxy.orphan(gather_seconds, late_seconds) for proxy in self._proxies))
