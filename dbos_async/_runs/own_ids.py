"""The ids under which a workflow has recorded its steps: its own, and in a fork also those of its originals.

A replay compares keys relative to these ids: two keys are the same when they are equal once each of these ids is replaced by one
mark. So a fork, which has another id, asks for the recorded steps wherever the original named itself, or what is named after it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from dbos_async._database.sql import load
from dbos_async._runs.run import Run
from dbos_async._serialization.values import decode_value

with load(__name__) as sql:
    OWN_IDS: Final = sql.statement("OWN_IDS", parallelism=1)

MARK: Final = "\0"
"""What stands for an id of the workflow; no key has this character."""


async def own_ids(run: Run) -> Sequence[str]:
    """The id of the workflow of a run, and those of the workflows that it is a fork of."""
    history = run.history
    if history is None:
        return [run.workflow_id]
    if history.own_ids is None:
        records = await run.database.call(OWN_IDS, [(run.workflow_id,)], partition=run.workflow_id, retry_forever=True)
        _, original, earlier = records[0]
        known: list[str] = decode_value(earlier or "[]", list[str])
        history.own_ids = [run.workflow_id, *([] if original is None else [original]), *known]
    return history.own_ids


def relative(text: str, ids: Sequence[str]) -> str:
    """The text with the mark in place of each of these ids."""
    if not any(own in text for own in ids):
        return text
    longest_first = sorted(ids, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, longest_first)), MARK, text)


def are_same(recorded: Sequence[str], asked: Sequence[str], ids: Sequence[str]) -> bool:
    """Whether two keys are the same, part by part, for a workflow that has these ids."""
    return [relative(part, ids) for part in recorded] == [relative(part, ids) for part in asked]
