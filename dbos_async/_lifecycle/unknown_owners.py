"""What an executor says of workflows whose method it knows, and whose object or class neither it nor another live one has.

No executor claims them: they are listed as unclaimable, and go on when an executor is launched that has registered the object.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from dbos_async._database.change_keys import UNOWNED_KEY
from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._serialization.values import encode_value
from dbos_async._workflows.owners import describe_unknown, ranges_of_names

log = logging.getLogger("dbos_async")

PAUSE_SECONDS: Final = 1.0
PAUSE_PER_SECOND: Final = 100.0
"""The pause is this many times as long as the look took."""
MAX_PAUSE_SECONDS: Final = 60.0
"""The longest pause: a look that has outlasted an outage took long."""

with load(__name__) as sql:
    UNKNOWN_OWNERS: Final = sql.statement("UNKNOWN_OWNERS", parallelism=1)


async def keep_reporting(database: Database) -> None:
    """Log once for each name that workflows wait for an object or a class that no live executor has, until cancelled."""
    told: set[str] = set()
    loop = asyncio.get_running_loop()
    with database.changes(UNOWNED_KEY) as changes:
        async for _ in changes:
            ranges = ranges_of_names()
            if not ranges:
                continue
            began = loop.time()
            row = (encode_value(ranges),)
            for _, name in await database.call(UNKNOWN_OWNERS, [row], partition="", retry_forever=True):
                if name not in told and (sentence := describe_unknown(name)):
                    log.error("%s", sentence)
                told.add(name)
            pause = PAUSE_PER_SECOND * (loop.time() - began)
            await asyncio.sleep(min(max(pause, PAUSE_SECONDS), MAX_PAUSE_SECONDS))
