"""Replaying what is recorded of a workflow against the code of today: nothing is executed anew, and nothing is stored.

The workflow may run elsewhere meanwhile: everything is read in one transaction, which sees one moment and cannot write. The run
ends at the first step whose result is not recorded, so no step of the user is called.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel

from dbos_async._checks import check_duration, check_key
from dbos_async._database.access import Access, find_schema
from dbos_async._database.database import Database
from dbos_async._executor import launched
from dbos_async._executor.calling import Runnable
from dbos_async._executor.continuing import CONTINUED
from dbos_async._executor.executor import Executor
from dbos_async._runs.run import RUNS_OF_ONE, Outcome, Run
from dbos_async._serialization.exceptions import decode_error
from dbos_async._serialization.values import display_value
from dbos_async._workflows.status import STATUS
from dbos_async.errors import InvalidArgumentError, LaunchError, ReplayMismatchError, WorkflowNotFoundError

ENDED: Final = ("SUCCESS", "ERROR")
"""How a function ends."""
MAX_RUNNING: Final = 1


class Replay(BaseModel, frozen=True):
    """What the code of today does with what is recorded of a workflow.

    ``fits`` is whether a run of this code would go on where the workflow stands, or end as it did. ``says`` is one sentence
    about that. ``frontier`` is the step that the code asks for after all that is recorded, ``None`` when it has come to its end or
    does not fit.
    """

    workflow_id: str
    status: str
    fits: bool
    says: str
    frontier: str | None = None


class _Replayer(Executor):
    """An executor of one run, which tells nobody of itself."""

    def __init__(self, database: Database, workflows: Mapping[str, Runnable]) -> None:
        super().__init__(database, "replay", application_version=None, max_running=MAX_RUNNING, workflows=workflows)
        self.only_replays = True
        self.mismatch: ReplayMismatchError | None = None
        self.outcome: Outcome | None = None
        self.is_over = asyncio.Event()

    def check_ownership_soon(self, run: Run) -> None:
        """It owns nothing."""

    async def stop_if_not_owner(self, run: Run) -> None:
        """It owns nothing."""

    async def park(self, run: Run, mismatch: ReplayMismatchError) -> None:
        """Note why the run cannot go on."""
        self.mismatch = mismatch

    def _end(self, run: Run, outcome: Outcome) -> None:
        if run.stopped is None:
            self.outcome = outcome
        run.main_task = None
        self.leave(run)
        self.is_over.set()


async def replay_workflow(
    url: str,
    workflow_id: str,
    workflows: Mapping[str, Runnable],
    *,
    schema: str | None = None,
    timeout_seconds: float = 60.0,
) -> Replay:
    """Replay the recorded steps of a workflow with these functions, which stand under their registered names.

    The process must not have launched `DBOS`. Code of the workflow that is in no step runs as in any replay, prints included.
    Raises `WorkflowNotFoundError` when there is no such workflow, and `InvalidArgumentError` when none of the functions has its
    name.
    """
    workflow_id, seconds = check_key(workflow_id, "workflow_id"), check_duration(timeout_seconds, "timeout_seconds")
    _check_nothing_is_launched()
    schema = find_schema(schema)
    access = Access(url, listen=False, schema=schema, connect_timeout_seconds=10.0, max_connections=1, read_only=True)
    database = Database(access)
    await database.open(migrate=False)
    replayer: _Replayer | None = None
    try:
        found = await database.call(STATUS, [(workflow_id,)], partition=workflow_id)
        if not found:
            raise WorkflowNotFoundError(workflow_id)
        record = found[0]
        if record["name"] not in workflows:
            raise InvalidArgumentError(
                f"The workflow {workflow_id!r} is of the function {record['name']!r}, which is not registered here: "
                "name the module that defines it, or that registers its object."
            )
        replayer = _Replayer(database, workflows)
        launched.set_launched(replayer)
        return await _replay(replayer, record, seconds)
    finally:
        if replayer is not None:
            await replayer.drain(0)
            launched.set_launched(None)
        await database.close()


def _check_nothing_is_launched() -> None:
    try:
        launched.executor()
    except LaunchError:
        return
    raise LaunchError("A process that has launched DBOS cannot replay beside it: replay in a process of its own.")


async def _replay(replayer: _Replayer, record: Any, seconds: float) -> Replay:
    workflow_id, name, status = str(record["workflow_id"]), str(record["name"]), str(record["status"])
    # The number of a later run: the first one would not look for recorded steps.
    run = replayer.begin(workflow_id, name, str(record["input"]), RUNS_OF_ONE - 1, patches=record["patches"])
    assert run is not None
    try:
        async with asyncio.timeout(seconds):
            await replayer.is_over.wait()
    except TimeoutError:
        says = f"The replay has not come to an end within {seconds:g} seconds: the code waits for something else than its steps."
        return Replay(workflow_id=workflow_id, status=status, fits=False, says=says)
    fits, says = _judged(replayer, run, status, record["output"])
    return Replay(workflow_id=workflow_id, status=status, fits=fits, says=says, frontier=run.frontier if fits else None)


def _judged(replayer: _Replayer, run: Run, status: str, output: str | None) -> tuple[bool, str]:
    outcome = replayer.outcome
    if replayer.mismatch is not None:
        return False, str(replayer.mismatch)
    if outcome is CONTINUED:
        if status in ENDED:
            return False, f"The workflow has ended in {status}, and the code continues as new."
        return True, "All that is recorded was replayed, and the code continues as new."
    if outcome is not None and outcome.status not in ENDED:
        return False, _reason(outcome)
    if outcome is None:
        if status in ENDED:
            return False, f"The workflow has ended in {status}, and the code asks for one more step: {run.frontier}."
        return True, f"All that is recorded was replayed, and the code asks for {run.frontier} next."
    if status in ENDED and outcome.status != status:
        return False, f"The workflow has ended in {status}, and the code ends in {outcome.status}{_because(outcome)}."
    if status == "SUCCESS" and display_value(outcome.output) != display_value(output):
        return False, "The workflow has ended in SUCCESS, and the code returns another result."
    return True, f"All that is recorded was replayed, and the code ends in {outcome.status}{_because(outcome)}."


def _because(outcome: Outcome) -> str:
    if outcome.error is None:
        return ""
    error = decode_error(outcome.error)
    return f" ({type(error).__name__}: {error})"


def _reason(outcome: Outcome) -> str:
    return (
        f"The workflow would be parked ({outcome.status})."
        if outcome.error is None
        else str(decode_error(outcome.error))
    )
