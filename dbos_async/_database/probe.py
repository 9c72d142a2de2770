"""Detects dead connections: while a statement takes long, the server is asked whether it still executes it.

When a firewall forgets a connection, a proxy freezes or a host loses its power, no answer comes, not even an error. So after
some seconds a probe asks the server over a new connection whether it is at work on the statement.

Behind a pooler in transaction mode no process of the server is known, so a statement is looked for by the name that its connection
has while it runs. A statement that waits in the pooler is not there yet: it must be missing twice. What users execute there has no
such name, and counts as dead only if nobody answers at all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress

import asyncpg

from dbos_async._database.connection_kinds import OwnConnection, PiecewiseConnection, is_own
from dbos_async._database.outages import CONNECT_ERRORS

log = logging.getLogger("dbos_async")

AFTER_SECONDS = 5.0
EVERY_SECONDS = 2.0
ANSWER_WITHIN_SECONDS = 5.0
CLOSE_WITHIN_SECONDS = 1.0
LATE_SECONDS = 0.1

AT_WORK = """
    -- A server process that has been in ClientRead for a second waits for its client, while the client waits for the server:
    -- the statement or the answer was lost on the way.
    select pid, application_name from pg_stat_activity
    where (pid = any ($1) or application_name = any ($2))
      and (coalesce(state, '') <> 'idle' and coalesce(wait_event, '') <> 'ClientRead'
           or state_change > clock_timestamp() - interval '1 second')
"""

OnProbe = Callable[[Exception | None], None]
"""Called after every probe, with ``None`` if the server is at work, else with the error of a probe that failed."""


class Probe:
    """Watches statements, and probes those that take long. All of them share one timer."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[OwnConnection]],
        log_in: Callable[[], Awaitable[None]],
        on_dead_connection: Callable[[], None],
    ) -> None:
        self._connect, self._log_in = connect, log_in
        self._on_dead_connection = on_dead_connection
        self._watched: dict[PiecewiseConnection, tuple[float, OnProbe | None]] = {}
        self._suspects: dict[PiecewiseConnection, OnProbe | None] = {}
        self._missing: set[PiecewiseConnection] = set()
        """Those without a session whose statements the last probe has not found."""
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._loop = asyncio.get_running_loop()

    @contextmanager
    def watching(
        self, connection: PiecewiseConnection, after_seconds: float, on_probe: OnProbe | None
    ) -> Generator[None]:
        """Watch this connection inside the block. Terminate it when the server does not work on its statement.

        The first probe comes after ``after_seconds``. Without ``on_probe`` a failed probe terminates the connection, too.
        """
        self.watch(connection, after_seconds, on_probe)
        try:
            yield
        finally:
            self.unwatch(connection)

    def watch(self, connection: PiecewiseConnection, after_seconds: float, on_probe: OnProbe | None) -> None:
        """Start what `watching` does, without the cost of a context manager."""
        probe_at = self._loop.time() + after_seconds
        self._watched[connection] = probe_at, on_probe
        if self._timer is None or self._timer.when() > probe_at:
            self._set_timer(probe_at)

    def unwatch(self, connection: PiecewiseConnection) -> None:
        """Stop watching this connection."""
        self._watched.pop(connection, None)
        self._suspects.pop(connection, None)
        self._missing.discard(connection)

    async def close(self) -> None:
        """Stop all probes."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _set_timer(self, probe_at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if self._closed else self._loop.call_at(probe_at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now = self._loop.time()
        for connection, (probe_at, on_probe) in list(self._watched.items()):
            if probe_at <= now:
                del self._watched[connection]
                self._suspects[connection] = on_probe
        if self._watched:
            self._set_timer(min(probe_at for probe_at, *_ in self._watched.values()))
        if self._suspects and self._task is None and not self._closed:
            self._task = self._loop.create_task(self._probe_suspects(), name="dbos_async probe")

    async def _probe_suspects(self) -> None:
        try:
            while self._suspects:
                await self._probe_once()
                await asyncio.sleep(EVERY_SECONDS)
        finally:
            self._task = None

    async def _probe_once(self) -> None:
        suspects = list(self._suspects)
        try:
            connection = await self._connect()
            try:
                with terminated_after(connection, ANSWER_WITHIN_SECONDS):
                    backends, tags = [each.backend for each in suspects], [each.tag for each in suspects]
                    rows = await connection.fetch(AT_WORK, backends, tags)
            finally:
                await close(connection)
        except asyncpg.TooManyConnectionsError:
            return  # The server lives. The next probe asks again.
        except CONNECT_ERRORS as error:
            await self._note_silence(suspects, error)
            return
        at_work = {row["pid"] for row in rows} | {row["application_name"] for row in rows}
        for suspect in filter(self._suspects.__contains__, suspects):
            on_probe = self._suspects[suspect]
            if not self._is_dead(suspect, at_work):
                if on_probe is not None:
                    on_probe(None)
                continue
            log.warning("A connection to the database is dead, although no error came: its statement is repeated.")
            self.unwatch(suspect)
            suspect.terminate()
            self._on_dead_connection()

    def _is_dead(self, suspect: PiecewiseConnection, at_work: set[int | str]) -> bool:
        """Whether the server does not work on the statement of this connection."""
        if suspect.has_session:
            return suspect.backend not in at_work
        if not is_own(suspect) or suspect.tag in at_work:
            self._missing.discard(suspect)
            return False
        is_dead = suspect in self._missing
        self._missing.add(suspect)
        return is_dead

    async def _note_silence(self, suspects: list[PiecewiseConnection], error: Exception) -> None:
        """A probe has failed. A pooler that has no process of the server to spare still takes a login."""
        is_there = False
        if not all(suspect.has_session for suspect in suspects):
            with suppress(*CONNECT_ERRORS):
                await self._log_in()
                is_there = True
        for suspect in filter(self._suspects.__contains__, suspects):
            on_probe = self._suspects[suspect]
            if on_probe is not None:
                on_probe(error)
            elif suspect.has_session or not is_there:
                suspect.terminate()


async def close(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Close a connection in good order if that takes no more than a second, else terminate it. Never raises for a lost one."""
    with (
        suppress(*CONNECT_ERRORS),
        terminated_after(connection, CLOSE_WITHIN_SECONDS),
    ):
        await connection.close()


@contextmanager
def terminated_after(connection: asyncpg.Connection[asyncpg.Record], seconds: float) -> Generator[None]:
    """Terminate the connection if the block takes longer, so that the block fails as it does on a lost connection.

    A cancellation, or asyncpg's own timeout, would open a further connection to ask the server to stop, with no time limit.
    """
    loop = asyncio.get_running_loop()
    timers: list[asyncio.TimerHandle] = []

    def late() -> None:
        # After a block of the event loop, the answer may be here but not read yet: allow a moment to read it.
        timers.append(loop.call_later(LATE_SECONDS, connection.terminate))

    timers.append(loop.call_later(seconds, late))
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
