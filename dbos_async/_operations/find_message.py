"""One message by its id."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._messaging.mailbox import check_message_id, message_of
from dbos_async.envelope import Message
from dbos_async.errors import MessageNotFoundError

with load(__name__) as sql:
    FIND_MESSAGE: Final = sql.statement("FIND_MESSAGE", parallelism=1)


async def find_message(database: Database, message_id: UUID | str) -> Message:
    """The message of this id, wherever it lies. Raises `MessageNotFoundError` when there is none."""
    found_id = check_message_id(message_id)
    records = await database.call(FIND_MESSAGE, [(found_id,)], partition="")
    if not records:
        raise MessageNotFoundError(str(found_id))
    return message_of(records[0])
