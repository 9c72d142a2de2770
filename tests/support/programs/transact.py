"""Transactions, killed at one moment of one of them: ``python -m tests.support.programs.transact URL KIND [MOMENT N]``.

MOMENT is ``body`` (its statements are made), ``record`` (the step is recorded), ``commit`` (the commit was sent, and its answer
is not read) or ``after`` (it is committed).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import Any

from dbos_async import DBOS, SetWorkflowID
from dbos_async._transactions.attempts import Attempts
from dbos_async._transactions.opened import Opened
from dbos_async._transactions.recording import TransactionStep
from tests.support.transactions import SESSIONS, Kind, engine_of, say

URL, KIND, MOMENT, AT = (*sys.argv[1:], "", "0")[:4]
moments: dict[str, int] = {}


def reached(moment: str) -> None:
    moments[moment] = moments.get(moment, 0) + 1
    if moment == MOMENT and moments[moment] == int(AT):
        os.kill(os.getpid(), signal.SIGKILL)


@Kind(KIND).transaction(name="transact")
async def write(target: Any, what: str) -> int:
    await say(target, f"insert into notes values ('{what}')")
    await DBOS.send("sink", what)
    reached("body")
    return int(await say(target, "select count(*) from notes"))


@DBOS.workflow(name="transacts")
async def transacts() -> list[Any]:
    return [await write("a"), *await asyncio.gather(write("b"), write("c")), await write("d")]


@DBOS.workflow(name="transact sink")
async def sink() -> list[Any]:
    return [await DBOS.recv(timeout_seconds=None) for _ in range(4)]


def with_moments() -> None:
    record, commit = TransactionStep.record_inside, Attempts._commit

    async def recorded(self: TransactionStep, connection: Any, output: str) -> str:
        outcome = await record(self, connection, output)
        reached("record")
        return outcome

    async def committed(self: Attempts, opened: Opened, *, is_checked: bool) -> None:
        if MOMENT == "commit":
            task = asyncio.create_task(commit(self, opened, is_checked=is_checked))
            await asyncio.sleep(0)  # its statement is sent
            reached("commit")
            await task
        else:
            await commit(self, opened, is_checked=is_checked)
        reached("after")

    TransactionStep.record_inside = recorded  # type: ignore[method-assign]  # a crash must come at exactly this place
    Attempts._commit = committed  # type: ignore[method-assign]  # as above


async def main() -> None:
    with_moments()
    engine = engine_of(URL)
    SESSIONS.configure(bind=engine)
    async with DBOS(URL, executor_id="transact"):
        with SetWorkflowID("sink"):
            receiver = await DBOS.start_workflow(sink)
        with SetWorkflowID("w"):
            handle = await DBOS.start_workflow(transacts)
        print(json.dumps([await handle.get_result(), sorted(await receiver.get_result())]))
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
