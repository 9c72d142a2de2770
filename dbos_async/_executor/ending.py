"""The end of a run: its outcome is stored by one call, and what follows happens with the answer. No task waits for it."""

from __future__ import annotations

import logging
from typing import Any, Final

from dbos_async._database.calls import Call, Observer, Result
from dbos_async._database.sql import load
from dbos_async._runs.patches import Patches
from dbos_async._runs.run import Outcome, Run
from dbos_async._serialization.exceptions import encode_error
from dbos_async._serialization.signature import Signature
from dbos_async._serialization.values import encode_value, size_error
from dbos_async.errors import InvalidValueError, LaunchError

log = logging.getLogger("dbos_async")

with load(__name__) as sql:
    FINISH: Final = sql.statement("FINISH")


def store_end(run: Run, outcome: Outcome, observer: Observer | None = None) -> Call:
    """Store how the workflow of a run ended, or that it is parked."""
    row = run.workflow_id, run.attempt, *outcome, run.end_key
    size = len(outcome.output or "") + len(outcome.error or "")
    call = Call(FINISH, (row,), run.partition, size, (run.end_key,), observer, retry_forever=True)
    return run.database.execute(call)


def success(run: Run, signature: Signature, value: Any) -> Outcome:
    """The outcome of a function that has returned this."""
    what = f"The result of workflow {run.workflow_id!r}"
    result = encode_value(value, signature.result_type, what=what)
    invalid = size_error(result, run.database.max_payload_bytes, what)
    if invalid is not None:
        raise invalid
    return Outcome("SUCCESS", result, None)


def failure(run: Run, error: BaseException) -> Outcome:
    """The outcome of a function that has raised this."""
    if run.stopped is None:
        log.warning("Workflow %r ends in ERROR.", run.workflow_id, exc_info=error)
        tracing.note(run, error)
    return Outcome("ERROR", None, encode_error(error))


class RunCompletion(Observer):
    """Stores the outcome of a run. No task waits for that: the run leaves its executor when the result has come (decision 15)."""

    __slots__ = ("_outcome", "_run", "_was_refused")

    def __init__(self, run: Run) -> None:
        self._run = run
        self._was_refused = False

    def store(self, outcome: Outcome) -> None:
        """Store this outcome, unless the database was closed. What `DBOS.patched` has answered last is stored before."""
        self._outcome = outcome
        patches = self._run.patches
        if patches is not None and patches.is_pending:
            return self._run.host.spawn(self._store_after(patches))
        try:
            self._run.end.completion = store_end(self._run, outcome, self)
        except LaunchError:
            self._run.host.leave(self._run)

    async def _store_after(self, patches: Patches) -> None:
        try:
            owns = await patches.stored(self._run)
        except BaseException:
            self._run.host.leave(self._run)
            raise
        if owns:
            self.store(self._outcome)
        else:
            self._run.host.leave(self._run)

    def on_result(self, call: Call, result: Result) -> None:
        if result[0]["ended"] and self._outcome.status in ("SUCCESS", "ERROR"):
            self._run.end.set(self._outcome)
        self._run.host.leave(self._run)

    def on_failure(self, error: BaseException | None) -> None:
        # A refused outcome is replaced by the error that says so. After any other failure the workflow's next run ends it.
        if isinstance(error, InvalidValueError) and not self._was_refused:
            self._was_refused = True
            refused = InvalidValueError(f"The outcome of workflow {self._run.workflow_id!r}", error.problem)
            log.warning("Workflow %r ends in ERROR.", self._run.workflow_id, exc_info=refused)
            return self.store(Outcome("ERROR", None, encode_error(refused)))
        if error is not None and not isinstance(error, LaunchError):
            log.error("The outcome of workflow %r could not be stored.", self._run.workflow_id, exc_info=error)
        self._run.host.leave(self._run)
