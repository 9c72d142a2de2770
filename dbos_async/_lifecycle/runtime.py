"""One launched DBOS: it opens everything, keeps it going, and closes it in the opposite order."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from pathlib import Path

from dbos_async import embedded
from dbos_async._database.database import Database
from dbos_async._database.outages import is_lost
from dbos_async._executor.executor import Executor
from dbos_async._lifecycle.leases import Recovery
from dbos_async._workflows.start import registered, set_launched

log = logging.getLogger("dbos_async")


class Runtime:
    """Everything that lives from launch to shutdown."""

    def __init__(
        self,
        url: str | None,
        *,
        executor_id: str | None,
        application_version: str | None,
        max_running: int,
        migrate: bool,
        max_payload_bytes: int,
        connect_timeout_seconds: float,
        drain_seconds: float,
    ) -> None:
        self._url = url
        self._executor_id = executor_id or f"{socket.gethostname()}:{os.getpid()}"
        self._application_version = application_version
        self._max_running = max_running
        self._migrate = migrate
        self._max_payload_bytes = max_payload_bytes
        self._connect_timeout_seconds = connect_timeout_seconds
        self._drain_seconds = drain_seconds
        self._server: embedded.EmbeddedPostgres | None = None
        self._services: list[asyncio.Task[None]] = []
        self.executor: Executor
        self.recovery: Recovery
        self.database: Database

    async def open(self) -> None:
        """Connect, migrate, listen, and take over what is left. What was opened is closed if this fails."""
        try:
            url = await self._find_url()
            self.database = Database(
                url,
                connect_timeout_seconds=self._connect_timeout_seconds,
                max_payload_bytes=self._max_payload_bytes,
            )
            self.executor = Executor(
                self.database,
                self._executor_id,
                application_version=self._application_version,
                max_running=self._max_running,
                known=registered,
            )
            self.recovery = Recovery(self.database, self.executor)
            try:
                await self.database.open(migrate=self._migrate, on_connect=self.recovery.lock_liveness)
                await self.recovery.register()
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
        """Stop claiming, stop every run without an outcome, give all back, and close every connection."""
        if not self._services:
            return  # It is closed already.
        try:
            lease, *others = self._services
            await _end(others)
            # The lease is kept until the last step has finished, so that nobody takes over what still runs.
            await self.executor.drain(self._drain_seconds)
            await _end([lease])
            set_launched(None)
            # A start that is still under way would leave a workflow to an owner that is gone.
            await self.database.batches.close(within_seconds=self._drain_seconds)
            try:
                await self.recovery.give_back()
            except Exception as error:
                if not is_lost(error):
                    raise
                log.warning("The workflows that ran here could not be given back and wait for the lease: %s", error)
        finally:
            set_launched(None)
            for service in self._services:
                service.cancel()
            self._services = []
            await self.database.close()
            await self._stop_server()

    def _serve(self) -> None:
        recovery = self.recovery
        for name, service in (
            ("lease", recovery.keep_lease()),
            ("claims", recovery.keep_claiming()),
            ("deadlines", recovery.keep_deadlines()),
            ("unclaimable", recovery.keep_telling()),
        ):
            task = asyncio.create_task(service, name=f"dbos_async {name}")
            task.add_done_callback(_report)
            self._services.append(task)
        self.executor.lease = self._services[0]

    async def _find_url(self) -> str:
        url = self._url or os.environ.get("DBOS_DATABASE_URL")
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
