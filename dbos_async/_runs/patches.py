"""Changed code in running workflows: `DBOS.patched` tells whether a workflow goes the new way, and every replay is told the same.

The first call of a name answers for the whole workflow. It is true when the run stands at the end of all that is recorded: then
nothing was done yet behind this call, by whatever code. It is false when something is recorded that the run has not asked for:
then code without this call has been here. Only true is recorded, as a name in the workflow's row, before any step that may depend
on it. False need not be: what makes it false stays recorded.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any, Final, NoReturn, Protocol

from dbos_async._database.calls import Call
from dbos_async._database.change_keys import UNOWNED_KEY
from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._runs.history import History, note_error
from dbos_async._serialization.values import decode_value, encode_value

with load(__name__) as sql:
    PATCH: Final = sql.statement("PATCH")
    UNPATCH: Final = sql.statement("UNPATCH")

PLACE: Final = ("branch", "number", "asked_after")

Place = tuple[str, int, int | None]
"""Where a name was called first: after which step of which branch, and after which place of the recorded order."""


class PatchedRun(Protocol):
    """What patches must know of their run."""

    database: Database
    workflow_id: str
    attempt: int
    partition: int
    history: History | None

    async def stop_as_lost(self) -> NoReturn:
        """Stop the run from inside one of its tasks."""
        ...


class Patches:
    """The answers that one run has given, and those that earlier runs have recorded."""

    __slots__ = ("_answers", "_followed_by", "_pending", "_stored", "_storing")

    def __init__(self, recorded: str | None) -> None:
        names = () if recorded is None else decode_value(recorded, dict[str, Any])
        self._answers: dict[str, bool] = dict.fromkeys(names, True)
        self._pending: dict[str, Place] = {}
        """What was answered with true and is not stored yet."""
        self._storing: asyncio.Task[bool] | None = None
        self._stored: list[str] = []
        """What this run has stored last."""
        self._followed_by: object = None
        """The first step after that."""

    @property
    def is_pending(self) -> bool:
        """Whether an answer is not stored yet."""
        return bool(self._pending)

    def answer(self, run: PatchedRun, name: str, place: Place) -> bool:
        """The answer for this name: the one that was given before, or the one that holds from now on."""
        known = self._answers.get(name)
        if known is None:
            known = self._answers[name] = run.history is None or run.history.is_behind
            if known:
                self._pending[name] = place
        return known

    async def store(self, run: PatchedRun, step: object) -> None:
        """Return when all that was answered with true is stored: now this step may be executed."""
        while self._pending:
            self._followed_by = step
            if not await self.stored(run):
                await run.stop_as_lost()

    async def stored(self, run: PatchedRun) -> bool:
        """Store what is pending; false when the run does not own its workflow any more. Whoever is cancelled, it is stored."""
        if self._storing is None:
            context = contextvars.Context()
            self._storing = run.database.loop.create_task(self._store(run), context=context)
            self._storing.add_done_callback(note_error)
        return await asyncio.shield(self._storing)

    async def _store(self, run: PatchedRun) -> bool:
        try:
            names = dict(self._pending)
            places = {name: dict(zip(PLACE, place, strict=True)) for name, place in names.items()}
            row = run.workflow_id, run.attempt, encode_value(places)
            answer = await run.database.execute(Call(PATCH, [row], run.partition, retry_forever=True))
            if answer[0]["outcome"] == "lost":
                return False
            self._stored = [*names]
            for name in names:
                del self._pending[name]
            return True
        finally:
            self._storing = None

    async def take_back(self, run: PatchedRun, step: object) -> bool:
        """Give the workflow to another run if this step does not fit although nothing was recorded of it when this run answered.

        An earlier run had a call of the step in flight then. So the answer should have been false, and the next run gives that.
        False when something else is wrong with the step.
        """
        if step is not self._followed_by:
            return False
        row = run.workflow_id, run.attempt, encode_value(self._stored), UNOWNED_KEY
        call = Call(UNPATCH, [row], run.partition, wakes=[UNOWNED_KEY], retry_forever=True)
        await run.database.execute(call)
        return True
