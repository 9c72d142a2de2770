"""A step that raises what a test says, attempt by attempt."""

from __future__ import annotations

from typing import Any

from dbos_async import DBOS


class BusyError(Exception):
    pass


class ClosedError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


RAISED: list[Exception] = []
"""What the attempts of `tried` raise, the first one first."""
ATTEMPTS: list[int | None] = []


def raise_next() -> int:
    ATTEMPTS.append(DBOS.attempt)
    if RAISED:
        raise RAISED.pop(0)
    return len(ATTEMPTS)


async def outcome(**options: Any) -> Any:
    """What a step with these options, which raises what is in RAISED, brings: its result or its error."""

    @DBOS.step(name="tried", **{"retries_allowed": True, "interval_seconds": 0, **options})
    async def tried() -> int:
        return raise_next()

    @DBOS.workflow(name="tries")
    async def workflow() -> int:
        return await tried()

    try:
        return await workflow()
    except Exception as error:
        return error
