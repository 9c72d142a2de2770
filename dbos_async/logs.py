"""Logs that say which workflow they are of: for handlers of `logging`, and for structlog.

handler = logging.StreamHandler()
handler.addFilter(WorkflowContext())
handler.setFormatter(logging.Formatter("%(asctime)s %(workflow_id)s %(message)s"))
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, NamedTuple

from dbos_async._checks import check_flag
from dbos_async._logs import shown
from dbos_async._runs.context import StepContext, current

__all__ = ["WorkflowContext"]


class _Place(NamedTuple):
    """Where code runs that logs."""

    workflow_id: str = ""
    workflow_name: str = ""
    step: str = ""
    attempt: int = 0
    replaying: bool = False


class WorkflowContext(logging.Filter):
    """Adds to each record which workflow has logged it, and drops what an earlier run of the workflow has logged already.

    As a filter of a handler, it gives each record the attributes ``workflow_id``, ``workflow_name``, ``step`` (the path of the
    step, empty in the body of the workflow), ``attempt`` (1 in the first run of the workflow, more in a later one) and
    ``replaying``. Outside of workflows the texts are empty, ``attempt`` is 0 and ``replaying`` false. Texts are shown as one line,
    since those who start a workflow choose its id.

    With ``drop_replays`` the records of the body of a workflow are dropped while `DBOS.is_replaying`: an earlier run has logged
    them. Steps log whenever they run, and of dbos_async itself nothing is dropped.

    It is a processor of structlog, too: ``structlog.configure(processors=[WorkflowContext(), …])``. There it adds nothing outside
    of workflows, and no name that the event has already.

    The filter belongs to the handler that the record meets first, where the code runs that logs: with a ``QueueHandler`` to that
    one. Raises `InvalidArgumentError` when ``drop_replays`` is no bool.

    Example:
        ```python
        out = io.StringIO()
        handler = logging.StreamHandler(out)
        handler.setFormatter(logging.Formatter("%(workflow_id)s [%(step)s] %(message)s"))
        handler.addFilter(WorkflowContext())
        log = logging.getLogger("shop")
        log.addHandler(handler)

        @DBOS.step()
        async def charge() -> None:
            log.warning("charging")

        @DBOS.workflow()
        async def checkout() -> None:
            log.warning("a new order")
            await charge()

        with SetWorkflowID("order-17"):
            await checkout()
        assert out.getvalue().splitlines() == ["order-17 [] a new order", "order-17 [1] charging"]
        ```
    """

    def __init__(self, drop_replays: bool = True) -> None:
        super().__init__()
        self._drop_replays = check_flag(drop_replays, "drop_replays")

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the attributes to a record; whether it is logged."""
        place = _find_place()
        for name, value in place._asdict().items():
            setattr(record, name, value)
        return not (self._drop_replays and place.replaying and record.name != "dbos_async")

    def __call__(self, _logger: Any, _method: str, event_dict: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Add the same to an event of structlog, or drop it."""
        place = _find_place()
        if not place.workflow_id:
            return event_dict
        if self._drop_replays and place.replaying:
            raise sys.modules["structlog"].DropEvent
        for name, value in place._asdict().items():
            event_dict.setdefault(name, value)
        return event_dict


_NOWHERE = _Place()


def _find_place() -> _Place:
    context = current.get()
    if context is None:
        return _NOWHERE
    run, step = context.run, context.path if isinstance(context, StepContext) else ""
    return _Place(shown(run.workflow_id), shown(run.name), step, run.count, run.is_replaying and not step)


def _make_logger() -> logging.Logger:
    made = logging.getLogger("dbos_async.workflows")
    if not any(isinstance(one, WorkflowContext) for one in made.filters):
        made.addFilter(WorkflowContext())
    return made


logger: logging.Logger = _make_logger()
"""`DBOS.logger`: each record knows its workflow, and no replay logs again."""
