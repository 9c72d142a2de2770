"""`DBOS.patched`: which way a workflow goes where its code has changed."""

from __future__ import annotations

from typing import Final

from dbos_async._checks import check_key
from dbos_async._database.database import Database
from dbos_async._runs.context import calling_context, in_workflow
from dbos_async._runs.patches import Patches
from dbos_async.errors import WorkflowEndedError

VERB: Final = "patched"


def patched(database: Database, name: str) -> bool:
    """Whether the calling workflow goes the new way at what has this name."""
    name = check_key(name, "name")
    context = in_workflow(calling_context(database), VERB)
    run, order = context.run, context.run.order
    if run.over:
        raise WorkflowEndedError(run.workflow_id, VERB)
    if run.patches is None:
        run.patches = Patches(None)
    # A task of its own that has called no verb stands where its parent was when it started the task.
    asked_after = order.released if order is not None and order.is_concurrent else None
    return run.patches.answer(run, name, (context.branch.name, context.number, asked_after))
