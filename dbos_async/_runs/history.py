"""What a run that takes a workflow over has to repeat: its recorded steps, read in pages, branch by branch.

Each branch reads on only when its replay has used up a page, so memory does not grow with the length of the history.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple
from uuid import UUID

from dbos_async._database.database import Database
from dbos_async._database.statement import Statement

PAGE = Statement(
    "PAGE",
    """
    -- One page of one branch: at most 1,000 steps or 1 MiB. "more" says whether to come back.
    select c.n, s.number, s.verb, s.key, s.output, s.error, s.message_id, s.completed, s.more
    from unnest($1::int[], $2::text[], $3::text[], $4::int[]) as c(n, workflow_id, branch, after)
    cross join lateral (
        select p.*, p.fetched = 1000 or p.weight > 1048576 as more
        from (
            select t.*, count(*) over () as fetched,
                   sum(t.bytes) over (order by t.number) as weight
            from (
                select number, verb, key, output, error, message_id,
                       coalesce(completed_at <= clock_timestamp(), false) as completed,
                       coalesce(pg_column_size(output), 0) + coalesce(pg_column_size(error), 0) + 64 as bytes
                from dbos_async.steps
                where workflow_id = c.workflow_id and branch = c.branch and number > c.after
                order by number
                limit 1000
            ) as t
        ) as p
        where p.weight - p.bytes < 1048576
    ) as s
    order by c.n, s.number
    """,
)


class Recorded(NamedTuple):
    """A recorded step; ``completed`` is false when a wait had begun and not ended."""

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
    """The recorded steps of one workflow, handed out in the order in which each branch asks for them."""

    def __init__(self, database: Database, workflow_id: str) -> None:
        self._database = database
        self._workflow_id = workflow_id
        self._branches: dict[str, _Branch] = {}

    async def find(self, branch: str, number: int) -> Recorded | None:
        """The recorded step of this number, ``None`` once the replay has reached new ground."""
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
        """Whether nothing is recorded behind the step of this number, for which it was asked last."""
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
