"""The recorded steps that a later run of a workflow replays, read in pages, branch by branch.

A branch reads its next page only when its replay has used up the last one, so memory does not grow with the history.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple
from uuid import UUID

from dbos_async._database.database import Database
from dbos_async._database.sql import load

with load(__name__) as sql:
    PAGE: Final = sql.statement("PAGE")


class Recorded(NamedTuple):
    """A recorded step; ``completed`` is false for a wait that has begun and not ended."""

    number: int
    verb: str
    key: str
    output: str | None
    error: str | None
    message_id: UUID | None
    completed: bool


class _Branch:
    __slots__ = ("more", "page", "read_to")

    def __init__(self) -> None:
        self.page: deque[Recorded] = deque()
        self.read_to = 0
        self.more = True


class History:
    """The recorded steps of one workflow. Each branch asks for its steps in the order of their numbers."""

    def __init__(self, database: Database, workflow_id: str) -> None:
        self._database = database
        self._workflow_id = workflow_id
        self._branches: dict[str, _Branch] = {}

    async def find(self, branch: str, number: int) -> Recorded | None:
        """The recorded step of this number, ``None`` if it is not recorded."""
        steps = self._branches.get(branch)
        if steps is None:
            steps = self._branches[branch] = _Branch()
        while True:
            while steps.page:
                recorded = steps.page[0]
                if recorded.number > number:
                    return None
                steps.page.popleft()
                if recorded.number == number:
                    return recorded
            if not steps.more:
                return None
            await self._read_on(branch, steps, max(steps.read_to, number - 1))

    async def is_last(self, branch: str, number: int) -> bool:
        """Whether no later step of the branch is recorded; for the step that was asked for last."""
        steps = self._branches.get(branch)
        if steps is not None and not steps.page and steps.more:
            await self._read_on(branch, steps, max(steps.read_to, number))
        return steps is None or not steps.page

    async def _read_on(self, branch: str, steps: _Branch, after: int) -> None:
        records = await self._database.call(
            PAGE, [(self._workflow_id, branch, after)], partition=self._workflow_id, retry_forever=True
        )
        steps.more = bool(records) and records[-1]["more"]
        for _, *recorded, _ in records:
            steps.page.append(Recorded(*recorded))
            steps.read_to = recorded[0]
