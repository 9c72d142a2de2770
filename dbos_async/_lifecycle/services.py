"""The background services of a launched DBOS. None of them ever ends by an error: it is logged, and the service begins again."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from dbos_async._database.statement import Statement
from dbos_async._database.urls import reason_of

log = logging.getLogger("dbos_async")

FIRST_PAUSE_SECONDS: Final = 0.1
MAX_PAUSE_SECONDS: Final = 5.0

CANCELLED: Final = "the program has cancelled its task, and it does nothing any more"

LOG_EVERY_SECONDS: Final = 60.0
"""An error is logged with its traceback, for each service at most this often."""

RECOVERED_AFTER_SECONDS: Final = 10.0
"""A service that has gone on for so long after an error has recovered from it."""


class Service:
    """One service, begun again after every error."""

    def __init__(self, name: str, serve: Callable[[], Awaitable[None]], *statements: Statement) -> None:
        self.name, self._serve = name, serve
        self.statements: Final = statements
        """What it asks the database to do."""
        self._loop = asyncio.get_running_loop()
        self._problem: str | None = None
        self._failed_at = float("-inf")
        self._failures = 0
        self._log_at = float("-inf")
        self.task: asyncio.Task[None] = asyncio.create_task(self._keep(), name=f"dbos_async {name}")
        self.task.add_done_callback(self._on_end, context=contextvars.Context())
        self._is_closed = False

    def close(self) -> None:
        """End the service."""
        self._is_closed = True
        self.task.cancel()

    @property
    def problem(self) -> str | None:
        """The error that it has not recovered from yet."""
        if self._is_closed:
            return None
        if self.task.done():
            return CANCELLED
        if self._loop.time() - self._failed_at > RECOVERED_AFTER_SECONDS:
            return None
        return self._problem

    async def _keep(self) -> None:
        while True:
            try:
                await self._serve()
                raise RuntimeError("The service has returned.")
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                self._note(RuntimeError(f"something that it waited for was cancelled ({error})"))
            except Exception as error:
                self._note(error)
            await asyncio.sleep(min(FIRST_PAUSE_SECONDS * 2.0 ** min(self._failures, 10), MAX_PAUSE_SECONDS))

    def _on_end(self, _task: asyncio.Task[None]) -> None:
        if not self._is_closed:
            # Not at once: asyncio.run cancels all tasks before it closes the event loop.
            self._loop.call_later(1.0, log.critical, "The service %r: %s.", self.name, CANCELLED)

    def _note(self, error: Exception) -> None:
        now = self._loop.time()
        self._failures = 0 if self.problem is None else self._failures + 1
        self._problem, self._failed_at = f"{type(error).__name__}: {reason_of(error)}", now
        if now >= self._log_at:
            self._log_at = now + LOG_EVERY_SECONDS
            log.error("The service %r failed and begins again.", self.name, exc_info=error)
