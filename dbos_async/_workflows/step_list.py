"""The steps of a workflow: those that are recorded, and those that are under way in its executor."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from pydantic import BaseModel

from dbos_async._checks import check_flag, check_int, check_key, excerpt
from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._executor import launched
from dbos_async._runs.running_step import RunningStep
from dbos_async._runs.step import read
from dbos_async._serialization.values import display_value
from dbos_async.errors import InvalidArgumentError

with load(__name__) as sql:
    LIST_STEPS: Final = sql.statement("LIST_STEPS", parallelism=1)
    PAGE_OF_STEPS: Final = sql.statement("PAGE_OF_STEPS", parallelism=1)
    PAGE_OF_NEWEST_STEPS: Final = sql.statement("PAGE_OF_NEWEST_STEPS", parallelism=1)
    RUNNING_STEPS: Final = sql.statement("RUNNING_STEPS", parallelism=1)

_PATH: Final = re.compile(r"(?:([0-9]{1,9}(?:\.[0-9]{1,9})*)\.)?([0-9]{1,9})")
_LAST: Final = ("\U0010ffff", 2**31 - 1)

Place = tuple[str, int]
"""Where a step stands: its branch, and its number there."""


class WorkflowStep(BaseModel, frozen=True):
    """One step: recorded, waiting, or under way.

    ``step`` is its path, as `DBOS.fork_workflow` takes it; ``verb`` and ``key`` say what it did; ``output`` and ``error`` are plain
    JSON. ``completed_at`` is ``None`` while the step runs or waits.

    A step that runs is not recorded yet. Then ``attempt`` is the number of its attempt, from 1, else ``None``. Between two attempts
    it is that of the next one, which begins at ``next_attempt_at``; ``last_error`` is the text of the error of the last one. It is
    ``None`` while the step waits for its turn, since ``max_concurrent`` attempts of it run.
    """

    step: str
    verb: str
    key: str
    output: Any
    error: Any
    started_at: datetime
    completed_at: datetime | None
    attempt: int | None = None
    next_attempt_at: datetime | None = None
    last_error: str | None = None


async def list_workflow_steps(
    database: Database, workflow_id: str, *, newest_first: bool, payloads: bool, limit: int | None, after: str | None
) -> list[WorkflowStep]:
    """The steps of a workflow: all of them in the order in which they began, or a page of them task by task."""
    workflow_id = check_key(workflow_id, "workflow_id")
    newest_first, payloads = check_flag(newest_first, "newest_first"), check_flag(payloads, "payloads")
    limit = None if limit is None else check_int(limit, 1, "limit")
    start = None if after is None else _place(after)

    async def find() -> list[WorkflowStep]:
        running = await running_steps(database, workflow_id)  # first: what is recorded meanwhile is found as recorded
        if limit is None and start is None:
            return await _all(database, workflow_id, running, newest_first=newest_first, payloads=payloads)
        most = limit or 2**31 - 1
        begin = start or (_LAST if newest_first else ("", 0))
        row = workflow_id, payloads, *begin, most
        records = await database.read(
            PAGE_OF_NEWEST_STEPS if newest_first else PAGE_OF_STEPS, [row], partition=workflow_id
        )
        page = {(record["branch"], record["number"]): _recorded(record) for record in records}
        end = list(page)[-1] if len(page) == most else None
        for step in running:
            if _is_between(step.place, begin, end, newest_first=newest_first):
                page.setdefault(step.place, _under_way(step))
        return [page[place] for place in sorted(page, reverse=newest_first)][:most]

    steps: list[WorkflowStep] = await read(database, "list_workflow_steps", workflow_id, find, list[WorkflowStep])
    return steps


async def _all(
    database: Database, workflow_id: str, running: Sequence[RunningStep], *, newest_first: bool, payloads: bool
) -> list[WorkflowStep]:
    records = await database.read(LIST_STEPS, [(workflow_id, payloads)], partition=workflow_id)
    found = [((r["started_at"], r["branch"], r["number"]), _recorded(r)) for r in records]
    if running:
        recorded = {(branch, number) for (_, branch, number), _ in found}
        found += [((one.started_at, *one.place), _under_way(one)) for one in running if one.place not in recorded]
        found.sort(key=lambda each: each[0])
    return [step for _, step in (reversed(found) if newest_first else found)]


async def running_steps(database: Database, workflow_id: str) -> list[RunningStep]:
    """The steps under way: this process knows those of its own runs, and the database what other executors have told."""
    # Of a standby whatever it says: what it tells of steps is not older than this.
    row = (workflow_id,)
    records = await database.read(RUNNING_STEPS, [row], partition=workflow_id, is_enough=lambda _: True)
    if not records:
        return []
    _, attempt, at, text, now = records[0]
    own = launched.running_steps(database, workflow_id)
    if own is not None:
        told, at = own, now
    else:
        told = json.loads(text) if text is not None else []
    return [RunningStep.of(fields, at) for fields in told if fields[0] == attempt]


def _is_between(place: Place, begin: Place, end: Place | None, *, newest_first: bool) -> bool:
    if newest_first:
        return place < begin and (end is None or place > end)
    return place > begin and (end is None or place < end)


def _place(path: object) -> Place:
    found = _PATH.fullmatch(path) if isinstance(path, str) else None
    if found is None:
        raise InvalidArgumentError(
            f"after must be the step of an earlier page as list_workflow_steps shows it ('4', or '4.1.2') and is {excerpt(path)}."
        )
    return found[1] or "", int(found[2])


def _recorded(record: Any) -> WorkflowStep:
    return WorkflowStep(
        step=record["step"], verb=record["verb"], key=record["key"], output=display_value(record["output"]),
        error=display_value(record["error"]), started_at=record["started_at"], completed_at=record["completed_at"],
    )  # fmt: skip


def _under_way(step: RunningStep) -> WorkflowStep:
    return WorkflowStep(
        step=step.path, verb=step.verb, key=step.key, output=None, error=None,
        started_at=step.started_at, completed_at=None, attempt=step.tried,
        next_attempt_at=step.next_at, last_error=step.last_error,
    )  # fmt: skip
