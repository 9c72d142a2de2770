"""Purging: the workflows that have ended long ago are removed whole, in small batches at a bounded rate, while everything runs.

A walk finds them by the time at which they were made. Nothing may be left behind that another transaction writes at this very
moment, as with `delete_workflow`: so whoever wrote when a page of the walk was read must be over before its workflows are removed.
A transaction that stays open longer only keeps those that may have ended after it began.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from pydantic import BaseModel

from dbos_async._checks import check_age, check_choices, check_flag, check_int, check_keys
from dbos_async._database.calls import Result
from dbos_async._database.change_keys import end_key
from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._database.statement import Statement
from dbos_async._executor import launched
from dbos_async._logs import counted
from dbos_async._runs.step import read
from dbos_async._serialization.values import encode_value
from dbos_async._workflows.delete import ENDED
from dbos_async.errors import DatabaseUnavailableError, DBOSError, InvalidValueError

PER_SECOND: Final = 1000
"""So many workflows are removed in a second, unless the caller asks for another rate."""

MAX_WALKED: Final = 1000
"""How many workflows one statement looks at."""

MAX_REMOVED: Final = 100
"""How many workflows one transaction removes, if its time suffices."""

WRITERS_WITHIN_SECONDS: Final = 2.0
"""How long a page waits for the transactions that may still write to its workflows."""

LOOK_EVERY_SECONDS: Final = 0.01

LEEWAY: Final = timedelta(hours=1)
"""What has ended so long before a transaction began had ended for it, also if the commit was slow or a clock was set back."""

with load(__name__) as sql:
    FIND_OLD: Final = sql.statement("FIND_OLD", parallelism=1)
    WRITERS: Final = sql.statement("WRITERS", parallelism=1)
    PURGE: Final = sql.statement("PURGE", parallelism=1)


class PurgeResult(BaseModel, frozen=True):
    """What a purge has done.

    ``count`` is how many workflows it has removed, after a dry run how many it would. ``left`` is how many it has left although
    they are old enough, and ``reason`` says why, ``None`` if it has left none: the next purge removes them.
    """

    count: int = 0
    left: int = 0
    reason: str | None = None


class Old(NamedTuple):
    """Which workflows a purge removes: by the time since their end, their status and their name."""

    older_than_seconds: float
    statuses: str
    names: str | None = None

    @classmethod
    def of(cls, older_than: timedelta | float, status: str | Sequence[str], name: str | Sequence[str] | None) -> Old:
        """What these arguments say, checked."""
        return cls(
            check_age(older_than, "older_than"),
            encode_value(check_choices(status, ENDED, "status")),
            None if name is None else encode_value(check_keys(name, "name")),
        )


class _Candidate(NamedTuple):
    """A workflow that is old enough."""

    created_at: datetime
    id: str
    attempt: int
    ended_at: datetime


async def purge(
    database: Database,
    old: Old,
    *,
    limit: int | None,
    dry_run: bool,
    per_second: int,
) -> PurgeResult:
    """Remove the workflows that are old, or count them."""
    limit = None if limit is None else check_int(limit, 1, "limit")
    dry_run, per_second = check_flag(dry_run, "dry_run"), check_int(per_second, 1, "per_second")

    async def find() -> PurgeResult:
        walk = Walk(database, old, per_second=per_second, limit=limit)
        return await (walk.count() if dry_run else walk.remove())

    result: PurgeResult = await read(database, "purge", "", find, PurgeResult)
    return result


async def _no_pause() -> bool:
    return True


class Walk:
    """One way through all workflows that are old, from those that were made first.

    ``may_go_on`` is asked again and again; false ends the walk. One that ``is_patient`` waits for the database however long it is
    away, and leaves a workflow that the database refuses to remove. Any other raises `DatabaseUnavailableError`.
    """

    def __init__(
        self,
        database: Database,
        old: Old,
        *,
        per_second: int = PER_SECOND,
        limit: int | None = None,
        is_patient: bool = False,
        may_go_on: Callable[[], Awaitable[bool]] = _no_pause,
    ) -> None:
        self._database, self._old, self._per_second = database, old, per_second
        self._limit, self._is_patient, self._may_go_on = limit, is_patient, may_go_on
        self._loop = database.loop
        self._cutoff: datetime | None = None
        self._place: tuple[datetime | None, str | None] = (None, None)
        self._is_over = False
        self._stubborn: set[str] = set()
        """Transactions for which this walk has waited in vain."""
        self._removed = self._left = 0
        self._reason: str | None = None
        self.obstacle: str | None = None
        """Why it has left workflows, if that may last."""
        self.looked_seconds: float = 0.0
        """How long it has looked for old workflows."""

    @property
    def result(self) -> PurgeResult:
        """What it has done so far."""
        return PurgeResult(count=self._removed, left=self._left, reason=self._reason)

    async def count(self) -> PurgeResult:
        """Count the workflows that are old, and remove none."""
        while not self._is_over and self._has_room:
            self._removed += len(await self._next_page())
        return self.result

    async def remove(self) -> PurgeResult:
        """Remove the workflows that are old."""
        while not self._is_over and self._has_room and await self._may_go_on():
            page = await self._next_page()
            rest = await self._without_written(page) if page else []
            while rest and await self._may_go_on():
                rest = await self._remove_some(rest[:MAX_REMOVED]) + rest[MAX_REMOVED:]
        return self.result

    @property
    def _has_room(self) -> bool:
        return self._limit is None or self._removed < self._limit

    async def _next_page(self) -> list[_Candidate]:
        """The old workflows of the next page, as many as the limit allows."""
        began = self._loop.time()
        old = self._old
        row = (old.older_than_seconds, self._cutoff, old.statuses, old.names, *self._place, MAX_WALKED)
        records = await self._call(FIND_OLD, row)
        self.looked_seconds += self._loop.time() - began
        first = records[0]
        self._cutoff, self._place = first["cutoff"], (first["at_time"], first["at_id"])
        self._is_over = first["at_id"] is None
        page = [_Candidate(*each[4:]) for each in records if each["id"] is not None]
        if self._limit is not None and len(page) > self._limit - self._removed:
            page = page[: self._limit - self._removed]
            self._place = page[-1][:2]
        return page

    async def _without_written(self, page: list[_Candidate]) -> list[_Candidate]:
        """Those of a page to which no transaction may still write, once those are over that can be waited for."""
        give_up_at = self._loop.time() + WRITERS_WITHIN_SECONDS
        earlier: set[str] | None = None
        while True:
            writers = {each["writer"]: each for each in await self._call(WRITERS, ())}
            earlier = set(writers) if earlier is None else earlier.intersection(writers)
            if not earlier:
                return page
            is_in_vain = self._loop.time() > give_up_at
            if is_in_vain or earlier <= self._stubborn:
                break
            await asyncio.sleep(LOOK_EVERY_SECONDS)
        self._stubborn |= earlier
        since = [writers[each]["began"] for each in earlier]
        free = [] if None in since else [each for each in page if each.ended_at < min(since) - LEEWAY]
        if len(free) < len(page):
            self._leave(len(page) - len(free), _open_transaction([writers[each] for each in earlier]))
        return free

    async def _remove_some(self, chunk: list[_Candidate]) -> list[_Candidate]:
        """Remove these workflows as far as one transaction comes; the others. Returns when the rate allows the next one."""
        began = self._loop.time()
        digests = [end_key(each.id) for each in chunk]
        rows = [(each.id, each.attempt, digest) for each, digest in zip(chunk, digests, strict=True)]
        call = self._database.call(PURGE, rows, partition="", wakes=digests)
        try:
            records = await call
        except (
            DatabaseUnavailableError,
            InvalidValueError,
        ) as error:  # of the latter kind is a foreign key of the user
            if not self._is_patient:
                raise
            return await self._remove_one_by_one(chunk, error)
        outcomes = {each["id"]: each["outcome"] for each in records}
        told = list(outcomes.values())
        # What is gone when the call was repeated has probably been removed by it, and the answer was lost.
        removed = told.count("removed") + (told.count("gone") if call.was_sent else 0)
        self._removed += removed
        if "held" in told:
            self._leave(told.count("held"), "other transactions held their rows at that moment", may_last=False)
        for each in chunk:
            if outcomes[each.id] == "removed":
                await launched.stop_if_lost(self._database, each.id)
        took = self._loop.time() - began
        # It leaves the database alone for at least as long as it has occupied it.
        await asyncio.sleep(max(removed / self._per_second - took, took))
        return [each for each in chunk if outcomes[each.id] == "later"]

    async def _remove_one_by_one(self, chunk: list[_Candidate], error: DBOSError) -> list[_Candidate]:
        """The database does not remove these workflows together. One that it does not remove alone is left."""
        if len(chunk) == 1:
            self._leave(1, f"the database does not remove workflow {chunk[0].id!r}: {error}")
            return []
        await self._call(WRITERS, ())  # an answer: the database is there
        for index, each in enumerate(chunk):
            if not await self._may_go_on():
                return chunk[index:]
            await self._remove_some([each])
        return []

    def _leave(self, count: int, reason: str, *, may_last: bool = True) -> None:
        self._left += count
        if may_last:
            self.obstacle = self.obstacle or reason
        self._reason = self.obstacle or reason

    async def _call(self, statement: Statement, row: tuple[Any, ...]) -> Result:
        return await self._database.call(statement, [row], partition="", retry_forever=self._is_patient)


def _open_transaction(writers: Sequence[Any]) -> str:
    """The transaction that is open and may write, in words; of several the one that began first."""
    oldest = min(writers, key=lambda each: (each["began"] is not None, each["began"] or 0))
    whose = "that was prepared" if oldest["pid"] is None else f"of server process {oldest['pid']}"
    since = "" if oldest["began"] is None else f" since {oldest['began']:%Y-%m-%d %H:%M:%S} UTC"
    others = f" and {counted(len(writers) - 1, 'other')}" if len(writers) > 1 else ""
    hint = "" if since or oldest["pid"] is None else " (a role of pg_read_all_stats would see since when)"
    return f"a transaction {whose}{others} is open{since} and may still write to them{hint}"
