"""The verbs of `DBOS` for workflows as a whole: start, find, list, cancel, resume, fork and delete them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload
from uuid import UUID

from dbos_async._messaging import mailbox
from dbos_async._workflows import control, delete, fork, handle, start
from dbos_async._workflows.handle import WorkflowHandle, WorkflowStatus, WorkflowStep
from dbos_async._workflows.start import Workflow, database
from dbos_async.envelope import Message
from dbos_async.keys import Topic

if TYPE_CHECKING:
    from dbos_async._runs.transaction import Connection

P = ParamSpec("P")
R = TypeVar("R")


class Management:
    """Workflows as a whole."""

    @overload
    @staticmethod
    async def start_workflow(
        function: Workflow[..., R], /, *args: Any, connection: Connection, **kwargs: Any
    ) -> WorkflowHandle[R]: ...
    @overload
    @staticmethod
    async def start_workflow(function: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> WorkflowHandle[R]: ...
    @staticmethod
    async def start_workflow(function: Any, /, *args: Any, **kwargs: Any) -> WorkflowHandle[Any]:
        """Start a workflow and return its handle once the start is committed; it runs here, in the background.

        With an id (`SetWorkflowID`) that exists nothing is started: the handle is of the first one, and its arguments count.
        Raises `WorkflowConflictError` when that id belongs to another function.

        With ``connection=``, an asyncpg connection, the start is a part of the transaction that is open there: a live executor
        that knows the workflow begins it once that commits. Arguments are then not checked by a type checker.
        """
        return await start.start_here(start.find(function), args, kwargs)

    @staticmethod
    async def retrieve_workflow(workflow_id: str) -> WorkflowHandle[Any]:
        """The handle of an existing workflow. Raises `WorkflowNotFoundError` when there is none of this id."""
        status = await handle.get_status(database(), workflow_id)
        known = start.registered.get(status.name)
        return WorkflowHandle(database(), workflow_id, known.signature.result_type if known else Any)

    @staticmethod
    async def list_workflows(
        *,
        status: str | None = None,
        name: str | None = None,
        id_prefix: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        parent_id: str | None = None,
        unclaimable: bool | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[WorkflowStatus]:
        """The workflows that fit every filter, the oldest first, at most ``limit``; ``after`` is the last id of the page before.

        ``unclaimable=True`` are those that wait for an executor and that no live one can run, since none knows their name or
        has their ``application_version``.
        """
        return await handle.list_workflows(
            database(), status=status, name=name, id_prefix=id_prefix, since=since, until=until,
            parent_id=parent_id, unclaimable=unclaimable, limit=limit, after=after,
        )  # fmt: skip

    @staticmethod
    async def list_workflow_steps(workflow_id: str) -> list[WorkflowStep]:
        """The recorded steps of a workflow, in the order in which they began."""
        return await handle.list_workflow_steps(database(), workflow_id)

    @staticmethod
    async def cancel_workflow(workflow_id: str) -> None:
        """Cancel a workflow, in whatever process it runs or waits; who waits for its result gets `WorkflowCancelledError`.

        One that has ended stays as it is. Its children go on. Raises `WorkflowNotFoundError` when there is none of this id.
        """
        await control.cancel(database(), workflow_id)

    @staticmethod
    async def resume_workflow(workflow_id: str, *, application_version: str | None = None) -> WorkflowHandle[Any]:
        """Let a cancelled or parked workflow go on after its last recorded step, in any executor that knows it.

        ``application_version`` (default: as it was) is the version that it is for from now on, also of one that waits for an
        executor. One that runs or has ended otherwise stays as it is. Raises `WorkflowNotFoundError` when there is none of this id.
        """
        await control.resume(database(), workflow_id, application_version)
        return await Management.retrieve_workflow(workflow_id)

    @staticmethod
    async def fork_workflow(
        workflow_id: str, start_step: int | str, *, application_version: str | None = None
    ) -> WorkflowHandle[Any]:
        """Start a copy of a workflow that goes on from step ``start_step``; the original stays as it is.

        The copy has the recorded steps below ``start_step`` (a number of `list_workflow_steps`), what they said and wrote, and
        every message that the original took later or has not taken. `SetWorkflowID` gives it an id; ``application_version``
        (default: the original's) says which executors may run it. Raises `WorkflowNotFoundError` when there is no original.
        """
        return await fork.fork(database(), workflow_id, start_step, application_version)

    @staticmethod
    async def delete_workflow(workflow_id: str) -> None:
        """Remove a workflow that has ended, with its steps, messages, events and streams; its children stay.

        Raises `WorkflowNotEndedError` when it goes on or is parked, `WorkflowNotFoundError` when there is none of this id.
        """
        await delete.delete(database(), workflow_id)

    @staticmethod
    async def list_messages(
        workflow_id: str,
        *,
        topic: str | Topic[Any] | None = None,
        status: str | None = None,
        limit: int = 100,
        after: UUID | str | None = None,
    ) -> list[Message]:
        """The messages that were sent to a workflow, the oldest first, at most ``limit``; ``after`` is the last id of a page.

        ``status`` is ``"waiting"``, ``"received"`` or ``"rejected"`` (its receiver could not read it, and `Message.rejected` says
        why). Raises `WorkflowNotFoundError` when there is no such workflow.
        """
        return await mailbox.list_messages(
            database(), workflow_id, topic=topic, status=status, limit=limit, after=after
        )

    @staticmethod
    async def redeliver(message_id: UUID | str) -> None:
        """Append a copy of a rejected message to the queue of its workflow, for the repaired code to receive.

        Raises `RedeliveryError` when it was not rejected, or when the workflow has ended; the error then says which
        `fork_workflow` receives it again. Raises `MessageNotFoundError` when there is none of this id.
        """
        await mailbox.redeliver(database(), message_id)
