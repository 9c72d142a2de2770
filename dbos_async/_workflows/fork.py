"""Forking: a copy of a workflow that goes on from one of its steps, while the original stays as it is."""

from __future__ import annotations

import re
from typing import Any, Final

from dbos_async._checks import MAX_INT, MAX_KEY_LENGTH, check_key, check_optional_key, excerpt
from dbos_async._database.change_keys import UNOWNED_KEY
from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._runs.start_options import allowed_time, assigned
from dbos_async._runs.step import read
from dbos_async._serialization.ids import ordered_id
from dbos_async._workflows.handle import WorkflowHandle
from dbos_async.errors import InvalidArgumentError, WorkflowConflictError, WorkflowNotFoundError

with load(__name__) as sql:
    FORK: Final = sql.statement("FORK")

_PATH = re.compile(r"[0-9]{1,10}(\.[0-9]{1,10})*")


async def fork(
    database: Database, workflow_id: str, start_step: int | str, application_version: str | None
) -> WorkflowHandle[Any]:
    """Start a copy of a workflow that goes on from one of its steps."""
    workflow_id = check_key(workflow_id, "workflow_id")
    application_version = check_optional_key(application_version, "application_version")
    start = _check_path(start_step)
    seconds, reaches_children = allowed_time()
    ticket = assigned.get()
    new_id = str(ordered_id()) if ticket is None else ticket.use()
    # A workflow records the id of the copy first, so that its replay makes no second copy.
    fork_id: str = await read(database, "fork_workflow", workflow_id, lambda: _same(new_id), str)

    async def find() -> str:
        row = workflow_id, fork_id, start, seconds, reaches_children, application_version, UNOWNED_KEY
        answer = await database.call(FORK, [row], partition=fork_id, wakes=[UNOWNED_KEY])
        if not answer:
            raise WorkflowNotFoundError(workflow_id)
        _, can_start, last, taken_name, taken_from = answer[0]
        if taken_name is not None:
            if taken_from != workflow_id:
                raise WorkflowConflictError(fork_id, taken_name, f"a fork of {workflow_id}")
        elif not can_start:
            raise InvalidArgumentError(_beyond(workflow_id, start, last))
        return fork_id

    await read(database, "fork_workflow", fork_id, find, str)
    return WorkflowHandle(database, fork_id)


def _check_path(start_step: object) -> str:
    """The path of a step. Its last number is that of the step, the others are those of tasks, which begin with 0."""
    if type(start_step) in (int, str):
        text = str(start_step) if not isinstance(start_step, int) or abs(start_step) <= MAX_INT else ""
        is_path = len(text) <= MAX_KEY_LENGTH and _PATH.fullmatch(text) is not None
        numbers = [int(number) for number in text.split(".")] if is_path else [0]
        if numbers[-1] > 0 and max(numbers) <= MAX_INT:
            return text
    raise InvalidArgumentError(
        "start_step must be the number of a step as list_workflow_steps shows it (4, or '4.1.2') "
        f"and is {excerpt(start_step)}."
    )


def _beyond(workflow_id: str, start: str, last: int | None) -> str:
    branch, _, _ = start.rpartition(".")
    if branch and last is None:
        return f"start_step must be the number of a step, and workflow {workflow_id!r} has recorded none from {branch}.1 on."
    most = f"{branch}.{last + 1}" if branch and last is not None else str((last or 0) + 1)
    return f"start_step must be at most {most}, which repeats nothing of workflow {workflow_id!r}, and is {start}."


async def _same(text: str) -> str:
    return text
