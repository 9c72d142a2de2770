"""SIGTERM for programs that have no handler of their own: it ends them as Ctrl-C does, after a clean shutdown.

The first signal cancels the task that launched DBOS, as asyncio does for SIGINT, so the program leaves its ``with`` blocks. A
second signal ends the process at once.
"""

from __future__ import annotations

import asyncio
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
        ):
            return
        loop = asyncio.get_running_loop()
        try:
            loop.add_signal_handler(signal.SIGTERM, self._end)
        except NotImplementedError:
            return  # Windows has no such signal
        self._loop, self._task = loop, asyncio.current_task()

    def leave(self, error: BaseException | None) -> None:
        """Stop handling the signal. If it came, and ``error`` is nothing but its cancellation, end the program."""
        self._remove()
        if self.received and (error is None or isinstance(error, asyncio.CancelledError)):
            raise SystemExit(EXIT_CODE)

    def _remove(self) -> None:
        if self._loop is not None:
            self._loop.remove_signal_handler(signal.SIGTERM)
            self._loop = None

    def _end(self) -> None:
        self.received = True
        self._remove()
        if self._task is not None:
            self._task.cancel("SIGTERM")
