"""Code of a step or workflow that ends its process: ``sys.exit``, Ctrl-C, and a forked child that comes back.

- ``sys.exit`` raises SystemExit, which would end the program in every run of the workflow anew. So it becomes an error of its step
  or workflow like any other, a `SystemExitError`.
- Ctrl-C raises KeyboardInterrupt in whatever code runs. It is no error of that code: the run stops without an outcome, and the
  program ends.
- A child that code has forked, and that comes back to the run or step, would go on as a second run over the sockets of its parent.
  So it ends there, with the exit code that it asks for.
"""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from collections.abc import Iterable
from typing import Any, Protocol

from dbos_async.errors import SystemExitError

INTERRUPTED = "the process was interrupted"

forks = 0
"""How many forks lie between this process and the first one that imported this module."""


class Stoppable(Protocol):
    """What is stopped by Ctrl-C: a run."""

    def stop(self, reason: str) -> None:
        """Let nothing more happen in its name."""


def as_error(error: BaseException, what: str) -> BaseException:
    """The error that is recorded when this code raised ``error``: another one only for SystemExit, alone or in a group."""
    found = error
    while isinstance(found, BaseExceptionGroup) and (exits := found.subgroup(SystemExit)) is not None:
        found = exits.exceptions[0]
    if not isinstance(found, SystemExit):
        return error
    exit_error = SystemExitError(what, found.code if isinstance(found.code, int | None) else str(found.code))
    exit_error.__cause__ = None if found is error else error
    return exit_error


def exit_of(tasks: Iterable[asyncio.Future[Any] | None]) -> SystemExit | None:
    """The SystemExit with which one of these tasks has ended the event loop: asyncio raises it there, and cancels all others."""
    for task in tasks:
        if (
            task is not None
            and task.done()
            and not task.cancelled()
            and isinstance(error := task.exception(), SystemExit)
        ):
            return error
    return None


def is_outcome(error: BaseException) -> bool:
    """Whether code that raised this has come to an end of its own: it was not cancelled, closed or interrupted from outside."""
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(KeyboardInterrupt) is None
    return not isinstance(error, asyncio.CancelledError | GeneratorExit | KeyboardInterrupt)


def interrupt(run: Stoppable, error: BaseException) -> None:
    """If this is Ctrl-C, stop the run and end the program as asyncio does. Nobody retrieves the exceptions of its tasks then."""
    if not isinstance(error, KeyboardInterrupt | BaseExceptionGroup):
        return
    run.stop(INTERRUPTED)
    task = asyncio.current_task()
    if task is not None:
        task.add_done_callback(_retrieve)
    raise error if isinstance(error, KeyboardInterrupt) else KeyboardInterrupt from None


def leave_child(error: BaseException | None) -> None:
    """End this process, which was forked by code that comes back now with this error, or without one."""
    code: object = None
    if isinstance(error, SystemExit):
        code = error.code
    elif error is not None:
        traceback.print_exception(error)
        code = 1
    if not isinstance(code, int | None):
        print(code, file=sys.stderr)
        code = 1
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit((code or 0) & 0xFF)


def _retrieve(task: asyncio.Future[object]) -> None:
    if not task.cancelled():
        task.exception()


def _count_fork() -> None:
    global forks
    forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)
