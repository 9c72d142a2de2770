"""Names what blocks the event loop: the workflow, its step, and the line of code."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
import traceback
from types import FrameType
from typing import Final

from dbos_async._database.loop_watch import BLOCKED_SECONDS
from dbos_async._executor.executor import Executor
from dbos_async._logs import Lines
from dbos_async._runs.numbered_step import NumberedStep
from dbos_async._runs.run import Run

log = logging.getLogger("dbos_async")

NAME_EVERY_SECONDS: Final = 10.0
"""Blocks are named at most this often."""

MAX_FRAMES: Final = 8


class BlockedLoop:
    """Looks at the event loop of an executor from another thread."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._is_named = False
        self._name_at = 0.0

    def look(self, seconds: float) -> None:
        """The loop has had no turn for so long."""
        if seconds < BLOCKED_SECONDS:
            self._is_named = False
        elif not self._is_named and time.monotonic() >= self._name_at:
            self._is_named = True
            self._name_at = time.monotonic() + NAME_EVERY_SECONDS
            self._name(seconds)

    def _name(self, seconds: float) -> None:
        frame = sys._current_frames().get(self._executor.thread)
        if frame is None:
            return  # its thread has ended
        log.warning(
            "%s has blocked the event loop for %.1f seconds: "
            "put code that blocks into a step written as a def, or use asyncio.to_thread. It is here:%s",
            self._find(frame), seconds, Lines(_stack(frame)),
        )  # fmt: skip

    def _find(self, frame: FrameType) -> str:
        """Who runs in the thread of the event loop, as far as its frames and its task tell."""
        step: NumberedStep | None = None
        run: Run | None = None
        outer: FrameType | None = frame
        while outer is not None:
            if outer.f_globals.get("__name__", "").startswith("dbos_async."):
                for value in outer.f_locals.values():
                    if isinstance(value, NumberedStep) and step is None:
                        step = value
                    elif isinstance(value, Run) and run is None:
                        run = value
            outer = outer.f_back
        if step is not None:
            return f"The {step.name} of workflow {step.run.workflow_id!r}"
        if run is None:
            run = self._run_of(asyncio.current_task(self._executor.loop))
        return "The program" if run is None else f"Workflow {run.workflow_id!r}"

    def _run_of(self, task: asyncio.Task[object] | None) -> Run | None:
        if task is None:
            return None
        for run in list(self._executor.runs.values()):
            if run.main_task is task or any(ref() is task for ref in run.task_refs or ()):
                return run
        return None


def _stack(frame: FrameType) -> str:
    """Where the program is, from the turn of the event loop inwards, without the frames of this package."""
    frames: list[traceback.FrameSummary] = []
    for outer, line in traceback.walk_stack(frame):
        module = outer.f_globals.get("__name__", "")
        if module == "asyncio.events":
            break
        if not module.startswith("dbos_async.") and len(frames) < MAX_FRAMES:
            frames += traceback.StackSummary.extract([(outer, line)])
    return "".join(traceback.format_list(frames[::-1])).rstrip()
