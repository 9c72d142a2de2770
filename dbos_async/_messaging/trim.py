"""Trimming a stream: the values below an offset are removed, and all others keep their offsets.

A stream with many rows is trimmed by several statements, each a commit of its own. So a trim that is interrupted has removed the
values below some offset, and goes on there when it is repeated.
"""

from __future__ import annotations

from typing import Any, Final

from dbos_async._checks import check_int, check_key
from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._runs.context import calling_context
from dbos_async._runs.issue import call_by, caller_columns, caller_in, issue
from dbos_async._runs.step import Step
from dbos_async._runs.waiting import wait
from dbos_async._serialization.values import decode_value
from dbos_async.keys import Stream, key_and_type

VERB: Final = "trim_stream"

MAX_ROWS: Final = 2000
"""One statement removes so many rows."""

with load(__name__) as sql:
    TRIM: Final = sql.statement("TRIM")


async def trim_stream(database: Database, workflow_id: str, key: str | Stream[Any], before: int) -> int:
    """Remove the values below ``before``; returns the first offset that is there then."""
    target = check_key(workflow_id, "workflow_id")
    name, _ = key_and_type(key, Stream)
    check_int(before, 0, "before")
    step_key = f"{name} of {target}"
    caller = caller_in(calling_context(database), VERB, step_key)
    row = (*caller_columns(caller), step_key, target, name, before, MAX_ROWS)
    text: str | None = None
    if isinstance(caller, Step):
        text = (await wait(caller, TRIM, row, ())).value()
    else:
        while text is None:
            text = (await issue(database, caller, call_by(caller, TRIM, [row], about=target), verb=VERB)).value()
    first: int = decode_value(text, int)
    return first
