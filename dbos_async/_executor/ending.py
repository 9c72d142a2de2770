"""The end of a run: its outcome is stored by one call, and what follows happens with the answer. No task waits for it."""

from __future__ import annotations

import logging

import asyncpg

from dbos_async._database.calls import Call, Observer, Result
from dbos_async._database.statement import Statement
from dbos_async._runs.run import Outcome, Run
from dbos_async._serialization.exceptions import encode_error
from dbos_async.errors import InvalidValueError, LaunchError

log = logging.getLogger("dbos_async")

FINISH = Statement(
    "FINISH",
    """
    with calls as materialized (
        select * from unnest($1::int[], $2::text[], $3::bigint[], $4::text[], $5::json[], $6::json[], $7::bytea[])
            as c(n, id, attempt, status, output, error, digest)
    ),
    held as materialized (
        select c.*, w.name, w.start_id
        from (select * from calls order by id) as c
        cross join lateral (
            select name, start_id, attempt, status from dbos_async.workflows where id = c.id for no key update
        ) as w
        where w.attempt = c.attempt and w.status = 'PENDING'
    ),
    filled as (
        -- Always an update, since the row is there and held. Said as an insert it finds its row by the key alone,
        -- whatever the planner believes the size of the table to be.
        insert into dbos_async.workflows as w (id, name, input, start_id, attempt, status, output, error, ended_at)
        select id, name, '{}', start_id, attempt, status, output, error,
               case when status in ('SUCCESS', 'ERROR', 'CANCELLED') then clock_timestamp() end
        from held
        on conflict (id) do update
            set status = excluded.status, output = excluded.output, error = excluded.error,
                ended_at = excluded.ended_at, owner = null
    ),
    announced as (select dbos_async.announce(string_agg(distinct digest, '')) from held)
    select n, n in (select n from held) as ended from calls, announced
    """,
)


def store_end(run: Run, status: str, output: str | None, error: str | None, observer: Observer | None = None) -> Call:
    """Store how the workflow of a run ended, or that it is parked."""
    row = run.workflow_id, run.attempt, status, output, error, run.end_key
    size = len(output or "") + len(error or "")
    return run.database.call(
        FINISH,
        (row,),
        partition=run.partition,
        size=size,
        wakes=(run.end_key,),
        retry_forever=True,
        observer=observer,
    )


class RunCompletion(Observer):
    """Stores the outcome of a run. No task waits for that: the run leaves its executor when the result has come."""

    __slots__ = ("_error", "_output", "_run", "_status", "_was_refused")

    def __init__(self, run: Run) -> None:
        self._run = run
        self._was_refused = False

    def store(self, status: str, output: str | None, error: str | None) -> None:
        """Store this outcome, unless the database was closed."""
        self._status, self._output, self._error = status, output, error
        try:
            self._run.end.completion = store_end(self._run, status, output, error, self)
        except LaunchError:
            self._run.host.leave(self._run)

    def on_result(self, call: Call, result: Result) -> None:
        if result[0]["ended"] and self._status in ("SUCCESS", "ERROR"):
            self._run.end.set(Outcome(self._status, self._output, self._error))
        self._run.host.leave(self._run)

    def on_failure(self, error: BaseException | None) -> None:
        # A refused outcome is replaced by the error that says so. After any other failure the workflow's next run ends it.
        if isinstance(error, (asyncpg.PostgresError, asyncpg.InterfaceError)) and not self._was_refused:
            self._was_refused = True
            problem = f"the database refused it: {error}"
            refused = InvalidValueError(f"The outcome of workflow {self._run.workflow_id!r}", problem)
            return self.store("ERROR", None, encode_error(refused))
        if error is not None and not isinstance(error, LaunchError):
            log.error("The outcome of workflow %r could not be stored.", self._run.workflow_id, exc_info=error)
        self._run.host.leave(self._run)
