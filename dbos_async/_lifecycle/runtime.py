"""One launched DBOS: it opens everything, keeps it running, and closes it in the opposite order."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import socket
from importlib.metadata import version

from dbos_async import embedded
from dbos_async._database.database import Database
from dbos_async._database.rights import WRITES
from dbos_async._database.urls import shown_url, url_of_environment
from dbos_async._executor import claiming, launched, running_steps
from dbos_async._executor.claiming import Claiming
from dbos_async._executor.executor import Executor
from dbos_async._executor.launched import set_launched
from dbos_async._executor.running_steps import RunningSteps
from dbos_async._lifecycle import leases, leftovers, periodic, retention, unknown_owners
from dbos_async._lifecycle.health import Health, health
from dbos_async._lifecycle.leases import Leases
from dbos_async._lifecycle.leftovers import Leftovers
from dbos_async._lifecycle.measurements import Measurements
from dbos_async._lifecycle.retention import Retention
from dbos_async._lifecycle.services import Service
from dbos_async._lifecycle.settings import Settings
from dbos_async._logs import counted
from dbos_async._telemetry.choosing import find_telemetry
from dbos_async._workflows.owners import register_subclasses
from dbos_async._workflows.registry import check_registered, registered
from dbos_async.errors import LaunchError, WrongPlaceError

log = logging.getLogger("dbos_async")

MIN_SECONDS_FOR_CALLS = 1.0
"""So long a shutdown waits for the calls under way, also when it gives steps no time to finish."""


class Runtime:
    """Everything that lives from launch to shutdown."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._server: embedded.EmbeddedPostgres | None = None
        self.services: list[Service] = []
        self.database: Database
        self.executor: Executor
        self.claiming: Claiming
        self.leftovers: Leftovers
        self.leases: Leases
        self._measurements: Measurements | None = None

    async def open(self) -> None:
        """Connect, migrate, listen, and take over abandoned workflows. Whatever was opened is closed if this fails."""
        check_registered()
        register_subclasses()
        settings = self._settings
        try:
            url = await self._find_url()
            self.database = Database(
                settings.access(url),
                max_payload_bytes=settings.max_payload_bytes,
                max_transactions=settings.max_transactions,
                telemetry=find_telemetry(settings.telemetry),
            )
            self.executor = Executor(
                self.database,
                settings.executor_id or f"{socket.gethostname()}:{os.getpid()}",
                application_version=settings.application_version,
                max_running=settings.max_running,
                workflows=registered,
            )
            self.claiming = Claiming(self.executor)
            self.leftovers = Leftovers(self.executor)
            self.database.postgres.timeline.watch(self.leftovers.let_go)
            self.leases = Leases(self.executor, self.leftovers, max_blocked_seconds=settings.max_blocked_seconds)
            try:
                await self.database.open(migrate=settings.migrate, rights=WRITES)
                await self.leases.register(settings.connect_timeout_seconds)
                set_launched(self.executor)
                self._serve()
                self._log_launch(url)
            except BaseException:
                set_launched(None)
                await self.leases.thread.stop()
                if self.leases.may_be_registered:
                    await self.leases.leave()
                await self.database.close()
                raise
        except BaseException:
            await self._stop_server()
            raise

    async def close(self) -> None:
        """Stop claiming, stop every run without an outcome, free the workflows, and close every connection."""
        if not self.services:
            return  # It is closed already.
        try:
            await self._end_services()
            self.claiming.close()
            # The lease is kept until the last step has finished, so that no executor takes over a workflow that still runs.
            await self.executor.drain(self._settings.drain_seconds)
            set_launched(None)
            # Wait for starts and claims under way: they would leave workflows to an owner that is gone.
            seconds = max(self._settings.drain_seconds, MIN_SECONDS_FOR_CALLS)
            await self.database.batches.close(within_seconds=seconds)
            await self.leases.leave()
        finally:
            set_launched(None)
            for service in self.services:
                service.close()
            self.services = []
            await self.leases.thread.stop()
            await self.database.close()
            await self._stop_server()

    def check_loop(self) -> None:
        """Raise unless DBOS was launched in this event loop."""
        if self.services:  # A launch that is under way has none yet.
            launched.check_loop(self.executor)

    async def health(self) -> Health:
        """How everything stands."""
        if not self.services:
            raise LaunchError("DBOS is just being launched or was shut down: ask for its health while it runs.")
        if asyncio.get_running_loop() is not self.database.loop:
            raise WrongPlaceError("DBOS was launched in another event loop: ask for its health from there.")
        return await health(self.database, self.executor, self.leases.thread, self.services)

    def _log_launch(self, url: str) -> None:
        log.info(
            "DBOS %s is launched as executor %r%s on %s: %s registered, lease of %g s.",
            version("dbos_async"), self.executor.executor_id,
            f" of version {self.executor.application_version!r}" if self.executor.application_version else "",
            shown_url(url), counted(len(registered), "workflow"), leases.LEASE_SECONDS,
        )  # fmt: skip

    def _serve(self) -> None:
        self.services = [
            Service("take-overs", self.leases.keep_looking, leases.OTHERS, leases.EXPIRE, leases.FREE),
            Service("leftovers", self.leftovers.keep_giving_back, leftovers.OWNED, leftovers.GIVE_BACK),
            Service("steps under way", RunningSteps(self.executor).keep_telling, running_steps.TELL_STEPS),
            Service("claims", self.claiming.keep_claiming, claiming.CLAIM, claiming.WAITING_NAMES),
            Service(
                "deadlines",
                periodic.Due(self.executor).keep_doing,
                periodic.DUE,
                periodic.CANCEL_DUE,
                periodic.BEGIN_DUE,
                periodic.MOVE_DUE,
            ),
            Service(
                "unclaimable",
                functools.partial(periodic.keep_reporting_unclaimable, self.database),
                periodic.UNCLAIMABLE,
            ),
        ]
        reporting = functools.partial(unknown_owners.keep_reporting, self.database)
        self.services.append(Service("unknown objects", reporting, unknown_owners.UNKNOWN_OWNERS))
        if self._settings.retention_seconds is not None:
            keep = Retention(self.executor, self._settings.retention_seconds).keep_removing
            self.services.append(Service("retention", keep, *retention.STATEMENTS))
        self.executor.service = self.services[0].task
        self._measurements = Measurements.begin(self.database, self.executor, self.leases.thread)

    async def _end_services(self) -> None:
        for service in self.services:
            service.close()
        if self._measurements is not None:
            await self._measurements.end()
        await asyncio.wait([service.task for service in self.services])

    async def _find_url(self) -> str:
        url = self._settings.url or url_of_environment()
        if url:
            return url
        if "DBOS_DATABASE_URL" in os.environ:
            log.info("DBOS_DATABASE_URL is set and empty: the embedded Postgres is used.")
        self._server = await embedded.start()
        return self._server.url

    async def _stop_server(self) -> None:
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop()
