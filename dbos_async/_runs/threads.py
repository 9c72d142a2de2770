"""The threads of ``def`` steps. The process ends without waiting for them: a cancelled step leaves its thread behind.

``anyio.to_thread`` would do the same, but the interpreter waits at its end for every thread of anyio. These are daemon threads.
Code in them calls the event loop by ``anyio.from_thread``. This takes private names of anyio: those of its worker threads.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import queue
import threading
from collections.abc import Callable
from typing import Any, Final

import anyio
from anyio._backends import _asyncio as anyio_on_asyncio
from anyio._core import _eventloop as anyio_eventloop
from anyio.lowlevel import RunVar

from dbos_async._runs import exits
from dbos_async._runs.turns import Turn

MAX_THREADS: Final = 40
IDLE_SECONDS: Final = 10.0

_limiters: RunVar[anyio.CapacityLimiter] = RunVar("dbos_async_step_threads")

_idle: list[_Thread] = []
_running: set[Job] = set()
_lock = threading.Lock()


class Job:
    """One call of a function in a thread."""

    def __init__(self, name: str, call: Callable[[], Any], scope: anyio.CancelScope) -> None:
        self.name = name
        """The step that the function is."""
        self.context = contextvars.copy_context()
        self._call, self._scope = call, scope
        self._loop = asyncio.get_running_loop()
        self._forks = exits.forks
        self.result: asyncio.Future[Any] = self._loop.create_future()
        self.over: asyncio.Future[None] = self._loop.create_future()
        """Resolved when the function has returned or raised."""

    def is_abandoned_in(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether it runs for this loop, and nobody waits for the result any more."""
        return self._loop is loop and self.result.cancelled()

    def run(self, idle: Callable[[], None]) -> None:
        """Call the function in this thread, unless nobody waits for it any more."""
        value: Any = None
        error: BaseException | None = None
        if not self.result.cancelled():
            try:
                value = self._run()
            except BaseException as raised:
                error = raised
        if exits.forks != self._forks:
            exits.leave_child(error)
        idle()
        if isinstance(error, StopIteration):  # no future takes it
            cause, error = error, RuntimeError("The step raised StopIteration.")
            error.__cause__ = cause
        try:
            self._loop.call_soon_threadsafe(self._report, value, error)
        except RuntimeError:
            if not self._loop.is_closed():
                raise

    def _run(self) -> Any:
        backend: Any = anyio_on_asyncio.AsyncIOBackend
        with anyio_eventloop.claim_worker_thread(backend, self._loop):
            anyio_eventloop.threadlocals.current_cancel_scope = self._scope
            try:
                return self.context.run(self._call)
            finally:
                del anyio_eventloop.threadlocals.current_cancel_scope

    def _report(self, value: Any, error: BaseException | None) -> None:
        self.over.set_result(None)
        if not self.result.done():
            if error is None:
                self.result.set_result(value)
            else:
                self.result.set_exception(error)


class _Thread(threading.Thread):
    """A thread that takes one job after the other, until it has had none for a while."""

    def __init__(self) -> None:
        super().__init__(name="dbos_async step", daemon=True)
        self.jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()

    def run(self) -> None:
        while True:
            try:
                job = self.jobs.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                with _lock:
                    if self in _idle:
                        _idle.remove(self)
                        return
                continue  # a job is just coming
            self._run(job)
            del job

    def _run(self, job: Job) -> None:
        def idle() -> None:
            # Before the result is reported, so that the next step finds this thread.
            with _lock:
                _running.discard(job)
                _idle.append(self)

        job.run(idle)


async def run_in_thread(name: str, call: Callable[[], Any], turn: Turn | None = None) -> Any:
    """Call the function of a step in a thread. A cancellation abandons the thread: it goes on, and its result is dropped.

    The ``turn`` of its attempt lasts until the function has returned.
    """
    async with _limiter():
        with anyio.CancelScope() as scope:
            job = Job(name, call, scope)
            job.context.run(_forget_library)
            thread = _take_thread()
            if turn is not None:
                turn.keep_until(job.over)
            with _lock:
                _running.add(job)
            thread.jobs.put(job)
            return await job.result


def _take_thread() -> _Thread:
    with _lock:
        if _idle:
            return _idle.pop()
    thread = _Thread()
    contextvars.Context().run(thread.start)  # a thread may inherit the context in which it is started
    return thread


async def left_behind(seconds: float) -> list[Job]:
    """Give the calls that nobody waits for any more this time to end; those that still run then."""
    loop = asyncio.get_running_loop()
    with _lock:
        jobs = [job for job in _running if job.is_abandoned_in(loop)]
    if jobs:
        await asyncio.wait([job.over for job in jobs], timeout=max(seconds, 0.0))
    return [job for job in jobs if not job.over.done()]


def _forget_library() -> None:
    # Code in the thread may run an event loop of its own.
    library: Any = getattr(anyio_eventloop, "sniffio", None)  # older releases of anyio need it
    if library is not None:
        library.current_async_library_cvar.set(None)


def _limiter() -> anyio.CapacityLimiter:
    try:
        return _limiters.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(MAX_THREADS)
        _limiters.set(limiter)
        return limiter


def _forget_threads() -> None:
    """A forked child has none of these threads."""
    global _lock
    _lock = threading.Lock()
    _idle.clear()
    _running.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
