"""Looking after statements that take long: a peer that vanished without a word never answers.

A firewall that forgot a connection, a proxy that froze and a host that lost its power have in common that nothing comes
any more, not even an error. So after some seconds the server is asked over a new connection whether it still works on it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress

import asyncpg

log = logging.getLogger("dbos_async")

AFTER_SECONDS = 5.0
EVERY_SECONDS = 2.0
ANSWER_WITHIN_SECONDS = 5.0
CLOSE_WITHIN_SECONDS = 1.0
LATE_SECONDS = 0.1

AT_WORK = """
    -- One that has been reading for a while waits for us, as we wait for it: its question or our answer got lost on the way.
    select pid from pg_stat_activity
    where pid = any ($1)
      and (coalesce(state, '') <> 'idle' and coalesce(wait_event, '') <> 'ClientRead'
           or state_change > clock_timestamp() - interval '1 second')
"""

OnProbe = Callable[[BaseException | None], None]
"""Told after every probe: ``None`` when the server is at work, else why it could not be asked."""


class Probe:
    """Asks about all statements that take long, as long as there are any. All share one timer."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[asyncpg.Connection[asyncpg.Record]]],
        vanished: Callable[[], None],
    ) -> None:
        self._connect = connect
        self._vanished = vanished
        self._watched: dict[asyncpg.Connection[asyncpg.Record], tuple[float, int, OnProbe | None]] = {}
        self._suspects: dict[asyncpg.Connection[asyncpg.Record], tuple[int, OnProbe | None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._loop = asyncio.get_running_loop()

    @contextmanager
    def watching(
        self, connection: asyncpg.Connection[asyncpg.Record], after_seconds: float, on_probe: OnProbe | None
    ) -> Generator[None]:
        """Look after what is done on this connection here; it is terminated when nobody works on that.

        Without ``heard`` it is also terminated when the server cannot be asked.
        """
        self.watch(connection, after_seconds, on_probe)
        try:
            yield
        finally:
            self.unwatch(connection)

    def watch(
        self, connection: asyncpg.Connection[asyncpg.Record], after_seconds: float, on_probe: OnProbe | None
    ) -> None:
        """The same by hand, for whoever watches often."""
        due = self._loop.time() + after_seconds
        # A connection that is terminated forgets its server process.
        self._watched[connection] = due, connection.get_server_pid(), on_probe
        if self._timer is None or self._timer.when() > due:
            self._wait_until(due)

    def unwatch(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        """Look after it no longer."""
        self._watched.pop(connection, None)
        self._suspects.pop(connection, None)

    async def close(self) -> None:
        """Ask no more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _wait_until(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if self._closed else self._loop.call_at(due, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        for connection, (due, backend, on_probe) in list(self._watched.items()):
            if due <= now:
                del self._watched[connection]
                self._suspects[connection] = backend, on_probe
        if self._watched:
            self._wait_until(min(due for due, *_ in self._watched.values()))
        if self._suspects and self._task is None and not self._closed:
            self._task = self._loop.create_task(self._ask_on(), name="dbos_async probe")

    async def _ask_on(self) -> None:
        try:
            while self._suspects:
                await self._ask()
                await asyncio.sleep(EVERY_SECONDS)
        finally:
            self._task = None

    async def _ask(self) -> None:
        asked = dict(self._suspects)
        try:
            connection = await self._connect()
            try:
                with terminated_after(connection, ANSWER_WITHIN_SECONDS):
                    rows = await connection.fetch(AT_WORK, [backend for backend, _ in asked.values()])
            finally:
                await close(connection)
        except asyncpg.TooManyConnectionsError:
            return  # It lives; it is asked again later.
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            for suspect in asked.keys() & self._suspects.keys():
                _, on_probe = asked[suspect]
                if on_probe is not None:
                    on_probe(error)
                else:
                    suspect.terminate()
            return
        at_work = {row["pid"] for row in rows}
        for suspect in asked.keys() & self._suspects.keys():
            backend, on_probe = asked[suspect]
            if backend not in at_work:
                log.warning("A connection to the database went dead without a word: its statement is repeated.")
                self._suspects.pop(suspect)
                suspect.terminate()
                self._vanished()
            elif on_probe is not None:
                on_probe(None)


async def close(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Close a connection in good order if that is quick, and quietly if it is not."""
    with (
        suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError),
        terminated_after(connection, CLOSE_WITHIN_SECONDS),
    ):
        await connection.close()


@contextmanager
def terminated_after(connection: asyncpg.Connection[asyncpg.Record], seconds: float) -> Generator[None]:
    """Terminate the connection if what is done here takes longer, so that it fails as on a lost one.

    A cancellation or a timeout of asyncpg's own would ask the server to stop, on a connection more, without end.
    """
    loop = asyncio.get_running_loop()
    timers: list[asyncio.TimerHandle] = []

    def late() -> None:
        # An event loop that stood still has not yet looked at what has come in meanwhile.
        timers.append(loop.call_later(LATE_SECONDS, connection.terminate))

    timers.append(loop.call_later(seconds, late))
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
