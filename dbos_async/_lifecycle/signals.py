"""SIGTERM for programs that have no handler of their own: it ends them as Ctrl-C does, after a clean shutdown.

The first signal cancels the task that launched DBOS, as asyncio does for SIGINT, so the program leaves its ``with`` blocks. A
second signal ends the process at once.

The handler is one of the interpreter and not one of the event loop: the loop's handlers write each signal to a socket, and a
forked child would write there, too, so that its parent would take the signal for its own. A forked child has no handler: a
SIGTERM ends it alone.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading

EXIT_CODE = 128 + signal.SIGTERM


class SigtermHandler:
    """Turns the first SIGTERM into a cancellation of the current task, unless the program handles the signal itself."""

    def __init__(self) -> None:
        self.received = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[object] | None = None

    def install(self) -> None:
        """Handle the signal from now on, unless the program does."""
        if (
            threading.current_thread() is not threading.main_thread()
            or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
            or not hasattr(os, "register_at_fork")  # Windows has no such signal
        ):
            return
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        signal.signal(signal.SIGTERM, self._on_signal)
        _installed.append(self)

    def leave(self, error: BaseException | None) -> None:
        """Stop handling the signal. If it came, and ``error`` is nothing but its cancellation, end the program."""
        self.remove()
        if self.received and (error is None or isinstance(error, asyncio.CancelledError)):
            raise SystemExit(EXIT_CODE)

    def remove(self) -> None:
        """Stop handling the signal, unless the program has put a handler of its own into the place meanwhile."""
        if self in _installed:
            _installed.remove(self)
            if signal.getsignal(signal.SIGTERM) == self._on_signal:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _on_signal(self, _number: int, _frame: object) -> None:
        self.received = True
        self.remove()
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        if self._task is not None:
            self._task.cancel("SIGTERM")


_installed: list[SigtermHandler] = []
"""The handler that is in place, if one is."""


def _after_fork_in_child() -> None:
    # The forked thread is the main thread of the child, so it may set handlers.
    for handler in _installed[:]:
        handler.remove()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
