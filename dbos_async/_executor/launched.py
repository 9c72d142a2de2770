"""The executor that is launched in this process: the one that the verbs of `DBOS` use."""

from __future__ import annotations

import asyncio
import contextlib
from threading import get_ident
from typing import Any

from dbos_async import _checks
from dbos_async._database.database import Database
from dbos_async._executor.executor import Executor
from dbos_async._executor.running_steps import steps_under_way
from dbos_async._runs.running_step import fields_of
from dbos_async.errors import LaunchError

STOP_WITHIN_SECONDS = 1.0

_launched: Executor | None = None


def set_launched(executor: Executor | None) -> None:
    """Make this executor the one that the verbs of this process use; ``None`` when it shuts down."""
    global _launched
    if _launched is not None:
        _launched.task_factory.remove()
    if executor is not None:
        executor.task_factory.install()
    _launched = executor


def is_launched() -> bool:
    """Whether an executor is launched in this process."""
    return _launched is not None


def executor() -> Executor:
    """The launched executor of this process, if it may be used from here."""
    if _launched is None:
        raise not_launched()
    # A thread runs one event loop at a time. So if this is the executor's thread and its loop runs, it is the running loop:
    # a cheaper test than get_running_loop().
    if get_ident() != _launched.thread or not _launched.loop.is_running():
        check_loop(_launched)
    return _launched


def check_loop(executor: Executor) -> None:
    """Raise unless the executor was launched in the event loop that runs here."""
    sentence = (
        "DBOS was launched in another event loop: call it from there, for example with anyio.from_thread.run(...)."
    )
    _checks.check_loop(executor.loop, sentence)


def not_launched() -> LaunchError:
    """The error of a call that needs a launched DBOS."""
    return LaunchError(
        "DBOS is not launched: write 'async with DBOS(...):' around your program, or await DBOS.launch(...)."
    )


def stop_cancelled(database: Database, workflow_id: str, attempt: int) -> None:
    """Stop the run of a workflow of this database that was cancelled, if it runs in this process; see `Executor.stop_cancelled`."""
    if _launched is not None and _launched.database is database:
        _launched.stop_cancelled(workflow_id, attempt)


def ask_to_end(database: Database, workflow_id: str, attempt: int) -> None:
    """Tell the run of a workflow of this database, if it runs in this process, that it may clean up; see `Executor.ask_to_end`."""
    if _launched is not None and _launched.database is database:
        _launched.ask_to_end(workflow_id, attempt)


def running_steps(database: Database, workflow_id: str) -> list[list[Any]] | None:
    """What is told now of the steps under way of a workflow of this database; ``None`` if it does not run in this process."""
    run = _launched.runs.get(workflow_id) if _launched is not None and _launched.database is database else None
    return None if run is None else [fields_of(step, run.count) for step in steps_under_way(run)]


async def stop_if_lost(database: Database, workflow_id: str) -> None:
    """Return once the run of this workflow in this process is stopped, if the workflow is not its own any more.

    The caller may know that from a connection of its own, as a client does. It waits for a moment only: the run hears of the
    change by itself, too.
    """
    if _launched is None or _launched.loop is not database.loop:
        return
    run = _launched.runs.get(workflow_id)
    if run is not None and run.stopped is None and not run.over:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_WITHIN_SECONDS):
                await _launched.stop_if_not_owner(run)


def database() -> Database:
    """The database of the launched executor."""
    return executor().database
