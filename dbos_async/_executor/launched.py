"""The executor that is launched in this process: the one that the verbs of `DBOS` use."""

from __future__ import annotations

import asyncio
from threading import get_ident

from dbos_async._database.database import Database
from dbos_async._executor.executor import Executor
from dbos_async.errors import LaunchError, WrongPlaceError

_launched: Executor | None = None


def set_launched(executor: Executor | None) -> None:
    """Make this executor the one that the verbs of this process use; ``None`` when it shuts down."""
    global _launched
    if _launched is not None:
        _launched.task_factory.remove()
    if executor is not None:
        executor.task_factory.install()
    _launched = executor


def executor() -> Executor:
    """The launched executor of this process, if it may be used from here."""
    if _launched is None:
        raise not_launched()
    # A thread runs one event loop at a time. So if this is the executor's thread and its loop runs, it is the running loop:
    # a cheaper test than get_running_loop().
    if (get_ident() != _launched.thread or not _launched.loop.is_running()) and _running_loop() is not _launched.loop:
        raise WrongPlaceError(
            "DBOS was launched in another event loop: call it from there, for example with anyio.from_thread.run(...)."
        )
    return _launched


def not_launched() -> LaunchError:
    """The error of a call that needs a launched DBOS."""
    return LaunchError(
        "DBOS is not launched: write 'async with DBOS(...):' around your program, or await DBOS.launch(...)."
    )


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def database() -> Database:
    """The database of the launched executor."""
    return executor().database
