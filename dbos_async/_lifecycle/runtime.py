"""One launched DBOS: it opens everything, keeps it running, and closes it in the opposite order."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from pathlib import Path

from dbos_async import embedded
from dbos_async._database.database import Database
from dbos_async._database.outages import is_lost
from dbos_async._executor.claiming import Claiming
from dbos_async._executor.executor import Executor
from dbos_async._executor.launched import set_launched
from dbos_async._lifecycle import periodic
from dbos_async._lifecycle.leases import Leases
from dbos_async._lifecycle.settings import Settings
from dbos_async._workflows.registry import registered

log = logging.getLogger("dbos_async")

MIN_SECONDS_FOR_CALLS = 1.0
"""So long a shutdown waits for the calls under way, also when it gives steps no time to finish."""


class Runtime:
    """Everything that lives from launch to shutdown."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._server: embedded.EmbeddedPostgres | None = None
        self._services: list[asyncio.Task[None]] = []
        self.database: Database
        self.executor: Executor
        self.claiming: Claiming
        self.leases: Leases

    async def open(self) -> None:
        """Connect, migrate, listen, and take over abandoned workflows. Whatever was opened is closed if this fails."""
        settings = self._settings
        try:
            self.database = Database(
                await self._find_url(),
                connect_timeout_seconds=settings.connect_timeout_seconds,
                max_payload_bytes=settings.max_payload_bytes,
            )
            self.executor = Executor(
                self.database,
                settings.executor_id or f"{socket.gethostname()}:{os.getpid()}",
                application_version=settings.application_version,
                max_running=settings.max_running,
                workflows=registered,
            )
            self.claiming = Claiming(self.executor)
            self.leases = Leases(self.executor, self.claiming)
            try:
                await self.database.open(migrate=settings.migrate, on_connect=self.leases.lock_liveness)
                await self.leases.register()
                set_launched(self.executor)
                self._serve()
            except BaseException:
                set_launched(None)
                await self.database.close()
                raise
        except BaseException:
            await self._stop_server()
            raise

    async def close(self) -> None:
        """Stop claiming, stop every run without an outcome, free the workflows, and close every connection."""
        if not self._services:
            return  # It is closed already.
        try:
            lease, *others = self._services
            await _end(others)
            self.claiming.close()
            # Keep the lease until the last step has finished, so that no executor takes over a workflow that still runs.
            await self.executor.drain(self._settings.drain_seconds)
            await _end([lease])
            set_launched(None)
            # Wait for starts and claims under way: they would leave workflows to an owner that is gone.
            seconds = max(self._settings.drain_seconds, MIN_SECONDS_FOR_CALLS)
            await self.database.batches.close(within_seconds=seconds)
            try:
                await self.leases.give_back()
            except Exception as error:
                if not is_lost(error):
                    raise
                log.warning(
                    "The workflows that ran here could not be freed; other executors take them over when the lease expires: %s",
                    error,
                )
        finally:
            set_launched(None)
            for service in self._services:
                service.cancel()
            self._services = []
            await self.database.close()
            await self._stop_server()

    def _serve(self) -> None:
        for name, service in (
            ("lease", self.leases.keep_lease()),
            ("claims", self.claiming.keep_claiming()),
            ("deadlines", periodic.keep_deadlines(self.database)),
            ("unclaimable", periodic.keep_reporting_unclaimable(self.database)),
        ):
            task = asyncio.create_task(service, name=f"dbos_async {name}")
            task.add_done_callback(_report)
            self._services.append(task)
        self.executor.lease = self._services[0]

    async def _find_url(self) -> str:
        url = self._settings.url or os.environ.get("DBOS_DATABASE_URL")
        if url:
            return url
        self._server = await embedded.start(Path.cwd() / ".dbos_async")
        return self._server.url

    async def _stop_server(self) -> None:
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop()


async def _end(services: list[asyncio.Task[None]]) -> None:
    for service in services:
        service.cancel()
    await asyncio.wait(services)


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.critical("%s ended unexpectedly.", task.get_name(), exc_info=task.exception())
