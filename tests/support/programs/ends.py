"""A program whose workflow ends the process, is interrupted, forks, or hangs in a thread.

    python -m tests.support.programs.ends URL HOW

It runs the one workflow ``w`` and prints a line for what a test waits for.
"""

from __future__ import annotations

import asyncio
import atexit
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import anyio

from dbos_async import DBOS, SetWorkflowID


def interrupt() -> None:
    """What Ctrl-C does to code that blocks the event loop: the first one is asyncio's, the second one is raised here."""
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)


def raise_interrupt() -> None:
    raise KeyboardInterrupt


def nap() -> None:
    time.sleep(1)
    say("slept")


def run_atexit() -> None:
    atexit._run_exitfuncs()
    os._exit(5)


def hang() -> None:
    say("hangs")
    time.sleep(60)


def say(line: str) -> None:
    print(line, flush=True)


def forked(child: Callable[[], Any], number: int | None = None) -> str:
    """How a forked child ends: its exit code, or minus the signal that it was sent and that killed it."""
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        child()
        return "the child came back"
    if number is not None:
        time.sleep(0.3)
        os.kill(process, number)
    return str(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))


def multiprocessed() -> str:
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    time.sleep(0.3)
    child.terminate()
    child.join(10)
    return str(child.exitcode)


FORKS: dict[str, Callable[[], str]] = {
    "multiprocessing": multiprocessed,
    "killed": lambda: forked(lambda: time.sleep(60), signal.SIGTERM),
    "exits": lambda: forked(lambda: sys.exit(7)),
    "exits with a text": lambda: forked(lambda: sys.exit("bye")),
    "comes back": lambda: forked(lambda: None),
    "fails": lambda: forked(lambda: 1 / 0),
    "runs atexit": lambda: forked(run_atexit),
}

ACTS: dict[str, Callable[[], Any]] = {
    "exit": lambda: sys.exit(2),
    "os exit": lambda: os._exit(9),
    "interrupt": interrupt,
    "raise interrupt": raise_interrupt,
    "nap": nap,
    "hang": hang,
    **FORKS,
}


@DBOS.step()
async def async_step(act: str) -> Any:
    return ACTS[act]()


@DBOS.step()
def def_step(act: str) -> Any:
    return ACTS[act]()


@DBOS.step(retries_allowed=True, interval_seconds=0)
async def step_with_tasks(act: str) -> Any:
    return (await asyncio.gather(asyncio.sleep(60), child_task(act)))[1]


@DBOS.step()
async def step_with_group(act: str) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(child_task, act)


@DBOS.step(timeout_seconds=0.1)
def timed_step(act: str) -> Any:
    return ACTS[act]()


async def child_task(act: str) -> Any:
    await asyncio.sleep(0)
    return ACTS[act]()


@DBOS.workflow(name="ends", max_recovery_attempts=1)
async def ends(place: str, act: str) -> Any:
    match place:
        case "step":
            return await async_step(act)
        case "def step":
            return await def_step(act)
        case "timed step":
            try:
                return await timed_step(act)
            except TimeoutError:
                return "timeout"
        case "tasks in a step":
            return await step_with_tasks(act)
        case "task group in a step":
            return await step_with_group(act)
        case "body":
            return ACTS[act]()
        case "step in a task":
            return (await asyncio.gather(DBOS.recv("never", None), async_step(act)))[1]
        case "task":
            return await asyncio.create_task(child_task(act))
        case "task that nobody awaits":
            task = asyncio.create_task(child_task(act))
            await DBOS.recv("never", None)
            return task
        case "task group":
            async with anyio.create_task_group() as group:
                group.start_soon(child_task, act)
    return None


async def main(url: str, place: str, act: str) -> None:
    async with DBOS(url, executor_id="one", drain_seconds=0.2):
        with SetWorkflowID("w"):
            handle = await DBOS.start_workflow(ends, place, act)
        if act in FORKS:
            say(await handle.get_result())
            await asyncio.Event().wait()  # until SIGTERM comes
        while (await handle.get_status()).status == "PENDING":  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        say((await handle.get_status()).status)


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]))
    except KeyboardInterrupt:
        say("interrupted")
