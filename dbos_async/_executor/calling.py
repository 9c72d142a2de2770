"""What a run does before and after the function of its workflow: read its recorded steps and arguments, and make its outcome."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from dbos_async._executor import tracing
from dbos_async._logs import without_stop
from dbos_async._runs.run import Outcome, Run
from dbos_async._serialization.exceptions import encode_error
from dbos_async._serialization.signature import Signature
from dbos_async._serialization.values import encode_value, size_error
from dbos_async.errors import InvalidValueError, ReplayMismatchError

log = logging.getLogger("dbos_async")


class Runnable(Protocol):
    """What an executor must know of a registered workflow to run it."""

    function: Callable[..., Any]
    signature: Signature
    max_recovery_attempts: int


async def prepare(
    run: Run, workflow: Runnable, text: str, recoveries: int
) -> tuple[list[Any], dict[str, Any]] | Outcome:
    """The arguments to call the function with, or the outcome of a workflow that cannot run."""
    if recoveries > workflow.max_recovery_attempts:
        log.error("Workflow %r is parked: %d executors in a row died under it.", run.workflow_id, recoveries)
        return Outcome("MAX_RECOVERY_ATTEMPTS_EXCEEDED", None, None)
    try:
        workflow.signature.resolve()  # before anything is done whose result could not be recorded
        call = workflow.signature.decode_call(text, f"workflow {run.workflow_id!r}")
    except InvalidValueError as unreadable:
        if run.history is None:
            raise
        # An earlier run could decode these arguments, so the code has changed, and can be repaired.
        recorded = "a call with arguments that fit"
        asked = f"types that they do not fit ({without_stop(str(unreadable))})"
        mismatch = ReplayMismatchError(run.workflow_id, "0", recorded, asked)
        log.error("%s", mismatch)
        return Outcome("REPLAY_MISMATCH", None, encode_error(mismatch))
    if run.history is not None:
        await run.history.open()
    return call


def success(run: Run, workflow: Runnable, value: Any) -> Outcome:
    what = f"The result of workflow {run.workflow_id!r}"
    result = encode_value(value, workflow.signature.result_type, what=what)
    invalid = size_error(result, run.database.max_payload_bytes, what)
    if invalid is not None:
        raise invalid
    return Outcome("SUCCESS", result, None)


def failure(run: Run, error: BaseException) -> Outcome:
    if run.stopped is None:
        log.warning("Workflow %r ends in ERROR.", run.workflow_id, exc_info=error)
        tracing.note(run, error)
    return Outcome("ERROR", None, encode_error(error))
