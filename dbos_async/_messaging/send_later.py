"""The statement for sends of which some are due later, and for starts with a message (decisions 68 and 69)."""

from __future__ import annotations

from typing import Final

from dbos_async._database.sql import load

with load(__name__) as sql:
    SEND_LATER: Final = sql.statement("SEND_LATER")
