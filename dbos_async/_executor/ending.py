"""The end of a run: its outcome is stored by one call, and what follows happens with the answer. No task waits for it."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import asyncpg

from dbos_async._database.batches import Answer, Follower
from dbos_async._database.sql import load
from dbos_async._runs.context import Outcome, Run
from dbos_async._serialization import exceptions
from dbos_async.errors import InvalidValueError, LaunchError

log = logging.getLogger("dbos_async")

with load(__name__) as sql:
    FINISH: Final = sql.statement("FINISH")


def finish(
    run: Run, status: str, output: str | None, error: str | None, follower: Follower | None = None
) -> asyncio.Future[Answer]:
    """Store how the workflow of a run ended, or that it waits to be repaired."""
    row = run.workflow_id, run.attempt, status, output, error, run.key
    size = len(output or "") + len(error or "")
    return run.database.call(
        FINISH, (row,), partition=run.partition, size=size, wakes=(run.key,), retry_forever=True, follower=follower
    )


class RunCompletion:
    """How a run ends: it has no task any more, and leaves its executor when the database has answered."""

    __slots__ = ("_error", "_output", "_run", "_status", "_was_refused")

    def __init__(self, run: Run) -> None:
        self._run = run
        self._was_refused = False

    def store(self, status: str, output: str | None, error: str | None) -> None:
        """Store this outcome, unless the database was closed."""
        self._status, self._output, self._error = status, output, error
        try:
            self._run.ending = finish(self._run, status, output, error, self)
        except LaunchError:
            self._run.host.leave(self._run)

    def answered(self, answer: Answer) -> None:
        """Tell who waits in this process."""
        if answer[0]["ended"] and self._status in ("SUCCESS", "ERROR"):
            self._run.end(Outcome(self._status, self._output, self._error))
        self._run.host.leave(self._run)

    def failed(self, error: BaseException | None) -> None:
        """Store in its place that the outcome was refused. Whatever else has failed, the next run of the workflow finds out."""
        if isinstance(error, (asyncpg.PostgresError, asyncpg.InterfaceError)) and not self._was_refused:
            self._was_refused = True
            refused = InvalidValueError(
                f"The outcome of workflow {self._run.workflow_id!r}", f"the database refused it: {error}"
            )
            return self.store("ERROR", None, exceptions.encode_error(refused))
        if error is not None and not isinstance(error, LaunchError):
            log.error("The outcome of workflow %r could not be stored.", self._run.workflow_id, exc_info=error)
        self._run.host.leave(self._run)
