"""What a replay must not ask for anew: the time, a random number, a UUID. In a workflow they are recorded."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Final
from uuid import UUID, uuid4

from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._runs.step import read

with load(__name__) as sql:
    NOW: Final = sql.statement("NOW", parallelism=1)

_generator: Final = random.SystemRandom()
"""Not the generator of the module, which a program may have seeded: then two workflows would be given the same."""


async def now(database: Database) -> datetime:
    """The time, by the clock of the database."""

    async def find() -> datetime:
        ((_, moment),) = await database.call(NOW, [()], partition="")
        return moment.astimezone(UTC)  # type: ignore[no-any-return]  # a record has no types

    found: datetime = await read(database, "now", "", find, datetime)
    return found.astimezone(UTC)


async def random_number(database: Database) -> float:
    """A number from 0 to 1, without 1."""

    async def find() -> float:
        return _generator.random()

    found: float = await read(database, "random", "", find, float)
    return found


async def random_uuid(database: Database) -> UUID:
    """A random UUID."""

    async def find() -> UUID:
        return uuid4()

    found: UUID = await read(database, "uuid", "", find, UUID)
    return found
