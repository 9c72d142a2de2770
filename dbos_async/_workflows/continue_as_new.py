"""`continue_as_new`: a workflow begins anew, with new arguments, under its id."""

from __future__ import annotations

import asyncio
from typing import Any, Final, NoReturn

from dbos_async._database.database import Database
from dbos_async._executor import launched
from dbos_async._runs.context import calling_context, in_workflow
from dbos_async._runs.continuation import Continuation, ContinuesAsNew
from dbos_async._runs.start_options import wanted_version
from dbos_async._serialization.values import size_error
from dbos_async.errors import WrongPlaceError

VERB: Final = "continue_as_new"


async def continue_as_new(database: Database, args: tuple[Any, ...], kwargs: dict[str, Any]) -> NoReturn:
    """Leave the function of the calling workflow, which then begins anew with these arguments."""
    run = in_workflow(calling_context(database), VERB).run
    await run.check_may_act(VERB, is_begun=False)
    if asyncio.current_task() is not run.main_task:
        raise WrongPlaceError(
            f"{VERB} was called in a task that workflow {run.workflow_id!r} has started: call it in the function of the workflow "
            "itself."
        )
    text = launched.executor().workflows[run.name].signature.encode_call(args, kwargs)
    invalid = size_error(text, database.max_payload_bytes, f"The call of workflow {run.name!r}")
    if invalid is not None:
        raise invalid
    run.continuation = Continuation(text, wanted_version.get())
    raise ContinuesAsNew
