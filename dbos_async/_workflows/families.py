"""Many workflows at once: those that are named, and with children also what they have started, and what that has started.

A start in a workflow is one statement, which reads the fence of the parent and locks nothing. So it may be under way while the
parent is cancelled, and commit its child behind the back of whoever lists the children. Therefore a family is cancelled in this
order: the fences of all that are known are moved; every transaction that may have read an older fence is over; the children are
listed again. When that brings nothing new, nothing new can come.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Literal, TypeVar

from dbos_async._checks import check_delay, check_flag, check_key, check_list, check_optional_key
from dbos_async._database.calls import Call, Result
from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._runs.context import calling_context
from dbos_async._runs.history import note_error
from dbos_async._runs.step import read
from dbos_async._workflows.control import cancelling, has_ended, resuming
from dbos_async.errors import DatabaseUnavailableError, WorkflowNotFoundError

CancelOutcome = Literal["cancelled", "ended", "unknown"]
ResumeOutcome = Literal["resumed", "pending", "ended", "unknown"]

AT_A_TIME = 500
"""With so many workflows something is done at a time: no statement takes long, or locks more rows."""

STARTS_WITHIN_SECONDS = 30.0
TOLD_WITHIN_SECONDS = 1.0
LOOK_EVERY_SECONDS: Final = 0.01
MAX_NAMED: Final = 8
"""So many workflows are named in the key of a step."""

T = TypeVar("T")

with load(__name__) as sql:
    CHILDREN: Final = sql.statement("CHILDREN")
    UNTOLD: Final = sql.statement("UNTOLD")
    STARTING: Final = sql.statement("STARTING", parallelism=1)


def check_ids(workflow_ids: object) -> list[str]:
    """The ids, each once, in their order. A lone text is more likely mistaken than meant."""
    checked = [check_key(each, "Each of workflow_ids") for each in check_list(workflow_ids, "workflow_ids")]
    return list(dict.fromkeys(checked))


def key_of(workflow_ids: Sequence[str]) -> str:
    """The key of a step that does something with these workflows."""
    named = ", ".join(workflow_ids[:MAX_NAMED])
    return named if len(workflow_ids) <= MAX_NAMED else f"{named} and {len(workflow_ids) - MAX_NAMED} more"


def chunks(all_of_them: Iterable[T], size: int | None = None) -> Iterator[list[T]]:
    """These in their order, some at a time."""
    some, size = list(all_of_them), size or AT_A_TIME
    for start in range(0, len(some), size):
        yield some[start : start + size]


async def answers_of(workflow_ids: Sequence[str], calls: Sequence[Call]) -> Iterable[tuple[str, Call, Result | None]]:
    """Each workflow with its call and the answer, when all calls have one or have failed. ``None``: it has failed."""
    answers = await asyncio.gather(*calls, return_exceptions=True)
    return [
        (each, call, None if isinstance(answer, BaseException) else answer)
        for each, call, answer in zip(workflow_ids, calls, answers, strict=True)
    ]


def raise_first(calls: Iterable[Call]) -> None:
    """Raise what the first call has failed with, if one has."""
    for call in calls:
        call.result()


async def children_of(database: Database, workflow_ids: Iterable[str]) -> dict[str, tuple[str, bool]]:
    """What these have started: the parent of each child, and whether the child has ended."""
    found: dict[str, tuple[str, bool]] = {}
    for some in chunks(workflow_ids):
        calls = [database.call(CHILDREN, [(each,)], partition=each) for each in some]
        for parent_id, answer in zip(some, await asyncio.gather(*calls), strict=True):
            for _, child_id, ended in answer:
                found[child_id] = parent_id, ended
    return found


async def descendants_of(database: Database, workflow_ids: Iterable[str]) -> dict[str, tuple[str, bool]]:
    """What these have started, what that has started, and on: the parent of each, and whether it has ended; parents first."""
    found: dict[str, tuple[str, bool]] = {}
    asked_for = dict.fromkeys(workflow_ids)
    above: Iterable[str] = asked_for
    while above:
        children = await children_of(database, above)
        above = [each for each in children if each not in found and each not in asked_for]
        found.update(children)
    return found


async def cancel_family(database: Database, workflow_id: str, cleanup_seconds: float | None) -> bool:
    """End a workflow that has not ended, and all its descendants. False if the workflow itself had ended."""
    workflow_id = check_key(workflow_id, "workflow_id")
    cancellation = _Cancellation(database, cleanup_seconds)

    async def find() -> bool:
        outcome = (await cancellation.cancel([workflow_id], children=True))[workflow_id]
        if outcome == "unknown":
            raise WorkflowNotFoundError(workflow_id)
        return outcome == "cancelled"

    return bool(await read(database, "cancel_workflow", workflow_id, find))


async def cancel_all(
    database: Database, workflow_ids: object, *, children: bool, cleanup_seconds: float | None
) -> dict[str, CancelOutcome]:
    """End those of these workflows that have not ended, with ``children`` also all their descendants."""
    ids, children = check_ids(workflow_ids), check_flag(children, "children")
    cancellation = _Cancellation(database, cleanup_seconds)
    outcomes: dict[str, CancelOutcome] = await read(
        database,
        "cancel_workflows",
        key_of(ids),
        lambda: cancellation.cancel(ids, children=children),
        dict[str, CancelOutcome],
    )
    return outcomes


async def resume_all(
    database: Database, workflow_ids: object, application_version: str | None
) -> dict[str, ResumeOutcome]:
    """Make those of these workflows PENDING again that were cancelled or parked."""
    ids, version = check_ids(workflow_ids), check_optional_key(application_version, "application_version")
    outcomes: dict[str, ResumeOutcome] = {}

    async def find() -> dict[str, ResumeOutcome]:
        for some in chunks(each for each in ids if each not in outcomes):
            calls = [resuming(database, each, version) for each in some]
            for each, call, answer in await answers_of(some, calls):
                if answer is not None:
                    outcomes[each] = _resumed(answer, was_sent=call.was_sent)
            raise_first(calls)
        return {each: outcomes[each] for each in ids}

    found: dict[str, ResumeOutcome] = await read(
        database, "resume_workflows", key_of(ids), find, dict[str, ResumeOutcome]
    )
    return found


def _resumed(answer: Sequence[Any], *, was_sent: bool) -> ResumeOutcome:
    if not answer:
        return "unknown"
    status = answer[0]["status"]
    if status in ("SUCCESS", "ERROR"):
        return "ended"
    return "pending" if status == "PENDING" and not was_sent else "resumed"


class _Cancellation:
    """One cancellation of several workflows, which may be tried again when the database was away. It knows what it has done."""

    def __init__(self, database: Database, cleanup_seconds: float | None) -> None:
        self._database = database
        self._cleanup_seconds = check_delay(cleanup_seconds, "cleanup_seconds")
        self._outcomes: dict[str, CancelOutcome] = {}
        self._failed: list[Call] = []
        """The calls that have failed, because somebody holds the row. The others go on, and then the error is raised."""
        context = calling_context(database)
        self._own_id = None if context is None else context.run.workflow_id
        """The workflow that calls. It is cancelled last, since that ends the call."""

    async def cancel(self, workflow_ids: Sequence[str], *, children: bool) -> dict[str, CancelOutcome]:
        """What became of each."""
        own_id, self._failed = self._own_id, []
        await self._cancel(each for each in workflow_ids if each != own_id)
        is_own = own_id in workflow_ids
        if children:
            family = dict.fromkeys(workflow_ids)
            is_own |= await self._cancel_descendants(family)
            workflow_ids = list(family)
        raise_first(self._failed)
        if is_own and own_id is not None and own_id not in self._outcomes:
            # What is left to do then is done although this call ends with its run.
            last = self._database.loop.create_task(
                self._cancel_caller(own_id, children=children), context=contextvars.Context()
            )
            last.add_done_callback(note_error)
            await asyncio.shield(last)
        return {each: self._outcomes[each] for each in workflow_ids}

    async def _cancel_caller(self, own_id: str, *, children: bool) -> None:
        self._own_id = None
        await self._cancel([own_id])
        if children:
            await self._cancel_descendants({own_id: None})
        raise_first(self._failed)

    async def _cancel_descendants(self, family: dict[str, None]) -> bool:
        """Cancel what these have started, and add it to them. True if the caller is a part of that."""
        own_id, is_own = self._own_id, False
        parents = list(family)
        while True:
            while parents:
                found = await children_of(self._database, parents)
                new = [child for child in found if child not in family]
                family.update(dict.fromkeys(new))
                is_own |= own_id in new
                for child in new:
                    if found[child][1]:
                        self._outcomes.setdefault(child, "ended")
                await self._cancel(each for each in new if each != own_id)
                parents = new
            await self._wait_for_starts()
            if self._cleanup_seconds:
                await self._wait_until_told(family)
            found = await children_of(self._database, family)
            if found.keys() <= family.keys():
                return is_own
            parents = [*dict.fromkeys(parent for child, (parent, _) in found.items() if child not in family)]

    async def _wait_until_told(self, family: Iterable[str]) -> None:
        """Return when those that clean up are told, or cannot be told soon: what they start from then on is for their clean-up."""
        give_up_at = self._database.loop.time() + TOLD_WITHIN_SECONDS
        untold = [each for each in family if self._outcomes.get(each) == "cancelled"]
        while untold and self._database.loop.time() < give_up_at:
            calls = [self._database.call(UNTOLD, [(each,)], partition=each) for each in untold]
            answers = await asyncio.gather(*calls)
            untold = [each for each, answer in zip(untold, answers, strict=True) if answer[0]["is_untold"]]
            if untold:
                await asyncio.sleep(LOOK_EVERY_SECONDS)

    async def _cancel(self, workflow_ids: Iterable[str]) -> None:
        for some in chunks(each for each in workflow_ids if each not in self._outcomes):
            calls = [cancelling(self._database, each, self._cleanup_seconds) for each in some]
            for each, call, answer in await answers_of(some, calls):
                if answer is not None:
                    is_ended = await has_ended(self._database, each, call)
                    self._outcomes[each] = "unknown" if is_ended is None else "cancelled" if is_ended else "ended"
            self._failed += [call for call in calls if call.exception() is not None]

    async def _wait_for_starts(self) -> None:
        """Return when every transaction is over that may start a workflow now, by a fence that it has read before."""
        loop = self._database.loop
        give_up_at = loop.time() + STARTS_WITHIN_SECONDS
        earlier = await self._starting()
        while earlier:
            if loop.time() > give_up_at:
                reason = "a transaction that may start another one of the family stayed open; all others are cancelled"
                raise DatabaseUnavailableError(STARTS_WITHIN_SECONDS, True, reason)
            await asyncio.sleep(LOOK_EVERY_SECONDS)
            earlier &= await self._starting()

    async def _starting(self) -> set[str]:
        return set((await self._database.call(STARTING, [()], partition=""))[0]["writers"])
