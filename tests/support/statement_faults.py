"""Faults at the statements of this process, at exactly one of them: its answer is lost, or its run loses the workflow."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg

from dbos_async._database.sending import Sending
from dbos_async._database.wakeups import UNOWNED_KEY

TAKE_AWAY = """
    with taken as (
        update dbos_async.workflows set owner = null, attempt = attempt + 1 where id = $1 and status = 'PENDING' returning id
    )
    select dbos_async.announce($2) from taken
"""

LOST, BEFORE, DURING, AFTER = KINDS = ("lost answer", "before", "during", "after")
"""A connection that is cut after the commit, and a workflow that is taken from its run around the statement."""

Choose = Callable[[str], str | None]
"""What happens to this statement, which is about to be executed; ``None``: nothing."""


@contextmanager
def faults(connection: Any, workflow_id: str, choose: Choose, happened: list[tuple[str, str]]) -> Iterator[None]:
    """While the block lasts, let each statement of this process have the fault that is chosen for it."""
    fetch = Sending._fetch
    turn = asyncio.Lock()

    async def take_away() -> None:
        async with turn:
            await connection.execute(TAKE_AWAY, workflow_id, UNOWNED_KEY)

    def begin() -> asyncio.Task[None]:
        # Nothing of the run may be in it: it is not the run that does this.
        return asyncio.get_running_loop().create_task(take_away(), context=contextvars.Context())

    async def fetch_or_fail(self: Any, link: Any, flight: Any, calls: Any) -> Any:
        fault = choose(flight.statement.name)
        if fault is None:
            return await fetch(self, link, flight, calls)
        happened.append((flight.statement.name, fault))
        if fault == BEFORE:
            await begin()
            return await fetch(self, link, flight, calls)
        taking = begin() if fault == DURING else None
        found = await fetch(self, link, flight, calls)
        if fault == AFTER:
            taking = begin()
        if taking is not None:
            await taking
        if fault == LOST:
            link.terminate()
            raise asyncpg.ConnectionDoesNotExistError("it was cut after the commit")
        return found

    Sending._fetch = fetch_or_fail  # type: ignore[method-assign, assignment]  # it must come at exactly this place
    try:
        yield
    finally:
        Sending._fetch = fetch  # type: ignore[method-assign]  # it must come at exactly this place
