"""Deleting workflows that have ended, with their steps, messages, events and streams; alone, or with all that they have started.

Nothing may be left behind that another transaction writes at this very moment. A transaction that sends to a workflow that has
ended locks its row. A transaction that still sees the workflow as running began before the end, and the deletion waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import anyio

from dbos_async._checks import check_flag, check_key
from dbos_async._database.change_keys import end_key
from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._executor import launched
from dbos_async._runs.step import read
from dbos_async._workflows.families import answers_of, check_ids, chunks, descendants_of, key_of, raise_first
from dbos_async.errors import DatabaseUnavailableError, WorkflowNotEndedError, WorkflowNotFoundError

ENDED = ("SUCCESS", "ERROR", "CANCELLED")
DELETE_WITHIN_SECONDS = 30.0
LOOK_EVERY_SECONDS: Final = 0.01
AT_A_TIME: Final = 100
"""So many workflows are removed at a time: each may have many rows."""

DeleteOutcome = Literal["deleted", "not ended", "unknown"]

with load(__name__) as sql:
    UNDER_WAY: Final = sql.statement("UNDER_WAY", parallelism=1)
    WRITING: Final = sql.statement("WRITING", parallelism=1)
    DELETE: Final = sql.statement("DELETE", parallelism=1)


async def delete(database: Database, workflow_id: str, *, children: bool = False) -> None:
    """Remove a workflow that has ended, with ``children`` also all its descendants, which must have ended, too."""
    workflow_id, children = check_key(workflow_id, "workflow_id"), check_flag(children, "children")
    deletion = _Deletion(database, [workflow_id], children=children)

    async def find() -> None:
        outcome = (await deletion.perform())[workflow_id]
        if outcome == "unknown":
            raise WorkflowNotFoundError(workflow_id)
        if outcome == "not ended":
            raise WorkflowNotEndedError(*deletion.obstacle)

    await read(database, "delete_workflow", workflow_id, find)


async def delete_all(database: Database, workflow_ids: object, *, children: bool) -> dict[str, DeleteOutcome]:
    """Remove those of these workflows that have ended, with ``children`` each with its descendants if these have ended, too."""
    ids, children = check_ids(workflow_ids), check_flag(children, "children")
    deletion = _Deletion(database, ids, children=children)
    outcomes: dict[str, DeleteOutcome] = await read(
        database, "delete_workflows", key_of(ids), deletion.perform, dict[str, DeleteOutcome]
    )
    return outcomes


async def would_delete(database: Database, workflow_ids: Sequence[str]) -> list[str]:
    """Which workflows `delete_all` would remove with ``children`` as they stand now."""
    return await _Deletion(database, workflow_ids, children=True).find()


@dataclass
class _Found:
    """The workflows that are meant, as they stand."""

    statuses: dict[str, tuple[str, int]] = field(default_factory=dict)
    """The status and the attempt of each that there is, each after its parent unless it is asked for itself."""
    writers: set[str] = field(default_factory=set)
    """The transactions that write at this moment."""
    parents: dict[str, str] = field(default_factory=dict)
    """The parents of those that were started by another one of them."""

    def blocked(self) -> dict[str, tuple[str, str]]:
        """Those that stay, since they or a descendant have not ended: which one, and its status."""
        stays: dict[str, tuple[str, str]] = {}
        for workflow_id, (status, _) in self.statuses.items():
            each: str | None = workflow_id
            while status not in ENDED and each is not None and each not in stays:
                stays[each] = workflow_id, status
                each = self.parents.get(each)
        return stays

    def to_remove(self, workflow_ids: Sequence[str], stays: Container[str]) -> set[str]:
        """Those of these that do not stay, and what stands below them."""
        asked_for, removed = set(workflow_ids), set[str]()
        for workflow_id in self.statuses:
            if workflow_id not in stays and (workflow_id in asked_for or self.parents.get(workflow_id) in removed):
                removed.add(workflow_id)
        return removed

    def by_depth(self) -> list[list[str]]:
        """All of them, those first that nothing of the rest has started last: the children before their parents."""
        depths: dict[str, int] = {}
        for workflow_id in self.statuses:
            path: list[str] = []
            each: str | None = workflow_id
            while each is not None and each not in depths:
                depths[each] = 0  # ends a walk in a circle, which only rows made by hand can have
                path.append(each)
                each = self.parents.get(each)
            depth = -1 if each is None else depths[each]
            for above in reversed(path):
                depth += 1
                depths[above] = depth
        levels: list[list[str]] = [[] for _ in range(max(depths.values(), default=-1) + 1)]
        for workflow_id, depth in depths.items():
            if workflow_id in self.statuses:
                levels[depth].append(workflow_id)
        return levels[::-1]


class _Deletion:
    """One deletion of several workflows, which may be tried again when the database was away. It knows what it has done."""

    def __init__(self, database: Database, workflow_ids: Sequence[str], *, children: bool) -> None:
        self._database, self._ids, self._children = database, workflow_ids, children
        self._deleted: dict[str, None] = {}
        self._sent: set[str] = set()
        """Those whose deletion may be committed although the answer was lost."""
        self.obstacle: tuple[str, str] = "", ""
        """A workflow that has not ended, and its status."""

    async def perform(self) -> dict[str, DeleteOutcome]:
        """What became of each."""
        give_up_at = anyio.current_time() + DELETE_WITHIN_SECONDS
        while True:
            found = await self._find()
            self._deleted.update(dict.fromkeys(self._sent - found.statuses.keys()))
            had_writers = bool(found.writers)
            while found.writers and anyio.current_time() <= give_up_at:
                await asyncio.sleep(LOOK_EVERY_SECONDS)
                found.writers &= set((await self._database.call(WRITING, [()], partition=""))[0]["writers"])
            if anyio.current_time() > give_up_at:
                reason = "transactions that may still write to this workflow stayed open"
                raise DatabaseUnavailableError(DELETE_WITHIN_SECONDS, bool(self._deleted), reason)
            # What was under way may have started another child, and somebody may have resumed what had ended.
            if (self._children or had_writers) and (await self._find()).statuses != found.statuses:
                continue
            stays = found.blocked()
            if await self._remove(found, found.to_remove(self._ids, stays)):
                outcomes: dict[str, DeleteOutcome] = {each: self._outcome(each, stays) for each in self._ids}
                for each in self._deleted:
                    outcomes[each] = "deleted"
                return outcomes

    async def find(self) -> list[str]:
        """Which workflows would be removed as they stand now."""
        found = await self._find()
        removed = found.to_remove(self._ids, found.blocked())
        return [each for each in found.statuses if each in removed]

    def _outcome(self, workflow_id: str, stays: dict[str, tuple[str, str]]) -> DeleteOutcome:
        if workflow_id in stays:
            self.obstacle = stays[workflow_id]
            return "not ended"
        return "deleted" if workflow_id in self._deleted else "unknown"

    async def _find(self) -> _Found:
        """The workflows that are meant now."""
        below = await descendants_of(self._database, self._ids) if self._children else {}
        found = await self._look(dict.fromkeys([*self._ids, *below]))
        found.parents = {child: parent for child, (parent, _) in below.items()}
        return found

    async def _look(self, workflow_ids: Iterable[str]) -> _Found:
        found = _Found()
        for some in chunks(workflow_ids):
            calls = [self._database.call(UNDER_WAY, [(each,)], partition="") for each in some]
            for each, answer in zip(some, await asyncio.gather(*calls), strict=True):
                for _, status, attempt, writers in answer:
                    found.statuses[each] = status, attempt
                    found.writers.update(writers)
        return found

    async def _remove(self, found: _Found, to_remove: set[str]) -> bool:
        """Remove these, children first. False if one of them has changed meanwhile: then all are looked at again."""
        for level in found.by_depth():
            for some in chunks([each for each in level if each in to_remove], AT_A_TIME):
                keys = [end_key(each) for each in some]
                rows = [(each, found.statuses[each][1], key) for each, key in zip(some, keys, strict=True)]
                calls = [self._database.call(DELETE, [row], partition="", wakes=[row[2]]) for row in rows]
                for each, call, answer in await answers_of(some, calls):
                    if answer:
                        self._deleted[each] = None
                        await launched.stop_if_lost(self._database, each)
                    elif call.was_sent or answer is None:
                        self._sent.add(each)
                raise_first(calls)
                if not all(each in self._deleted for each in some):
                    return False
        return True
