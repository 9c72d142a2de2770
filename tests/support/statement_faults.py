"""Faults at the statements of this process, at exactly one of them: its answer is lost, or its run loses the workflow."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import asyncpg

from dbos_async._database.calls import Call
from dbos_async._database.change_keys import UNOWNED_KEY
from dbos_async._database.flights import Flight
from dbos_async._database.sending import Sending

TAKE_AWAY = """
    with taken as (
        update dbos_async.workflows set owner = null, attempt = attempt + 1 where id = $1 and status = 'PENDING' returning id
    )
    select dbos_async.announce($2) from taken
"""

LOST, BEFORE, DURING, AFTER = KINDS = ("lost answer", "before", "during", "after")
"""An answer that is lost after the commit, and a workflow that is taken from its run around the statement."""

Choose = Callable[[str], str | None]
"""What happens to this statement, which is about to be executed; ``None``: nothing."""


@contextmanager
def faults(connection: Any, workflow_id: str, choose: Choose, happened: list[tuple[str, str]]) -> Generator[None]:
    """While the block lasts, let each statement of this process have the fault that is chosen for it."""
    fetch = Sending.execute
    turn = asyncio.Lock()

    async def take_away() -> None:
        async with turn:
            await connection.execute(TAKE_AWAY, workflow_id, UNOWNED_KEY)

    def begin() -> asyncio.Task[None]:
        # Nothing of the run may be in it: it is not the run that does this.
        return asyncio.get_running_loop().create_task(take_away(), context=contextvars.Context())

    async def fetch_or_fail(
        self: Sending, flight: Flight, calls: list[Call], *, is_patient: bool = True
    ) -> list[asyncpg.Record]:
        fault = choose(flight.statement.name)
        if fault is None:
            return await fetch(self, flight, calls, is_patient=is_patient)
        happened.append((flight.statement.name, fault))
        if fault == BEFORE:
            await begin()
            return await fetch(self, flight, calls, is_patient=is_patient)
        taking = begin() if fault == DURING else None
        found = await fetch(self, flight, calls, is_patient=is_patient)
        if fault == AFTER:
            taking = begin()
        if taking is not None:
            await taking
        if fault == LOST:
            raise asyncpg.ConnectionDoesNotExistError("it was cut after the commit")
        return found

    Sending.execute = fetch_or_fail  # type: ignore[method-assign]  # it must come at exactly this place
    try:
        yield
    finally:
        Sending.execute = fetch  # type: ignore[method-assign]  # it must come at exactly this place
