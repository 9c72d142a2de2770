"""The verbs of `DBOS` and `DBOSClient` for workflows as a whole: find, list, cancel, resume, fork and delete them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import datetime
from typing import Any

from dbos_async._database.database import Database
from dbos_async._workflows import control, delete, fork
from dbos_async._workflows import status as statuses
from dbos_async._workflows.handle import WorkflowHandle
from dbos_async._workflows.status import WorkflowStatus, WorkflowStep


class WorkflowVerbs(ABC):
    """Workflows as a whole, for callers anywhere."""

    @property
    @abstractmethod
    def _database(self) -> Database:
        """The database that the verbs use; raises when it may not be used from here."""

    def _result_type(self, name: str) -> Any:
        """The type of the results of workflows of this name; ``Any`` leaves them plain JSON values."""
        return Any

    async def retrieve_workflow(self, workflow_id: str) -> WorkflowHandle[Any]:
        """The handle of an existing workflow.

        Raises `WorkflowNotFoundError` when there is no such workflow.

        Example:
            ```python
            @DBOS.workflow()
            async def greet(name: str) -> str:
                return f"Hello, {name}!"

            workflow_id = (await DBOS.start_workflow(greet, "Ada")).workflow_id
            handle = await DBOS.retrieve_workflow(workflow_id)
            assert await handle.get_result() == "Hello, Ada!"
            ```
        """
        found = await statuses.get_status(self._database, workflow_id)
        return WorkflowHandle(self._database, workflow_id, self._result_type(found.name))

    async def list_workflows(
        self,
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
        """The workflows that fit every filter, the oldest first, at most ``limit``. ``None`` as a filter fits all.

        ``since`` and ``until`` bound when a workflow was created and must have a time zone. ``parent_id`` is the workflow that
        started it. ``unclaimable=True`` lists those that wait for an executor although no live one can run them, because none
        knows their name or has their ``application_version``. ``after`` is the last id of the page before.

        Raises `InvalidArgumentError` when a filter cannot be used.

        Example:
            ```python
            @DBOS.workflow(name="greet")
            async def greet(name: str) -> str:
                return f"Hello, {name}!"

            await greet("Ada")
            found = await DBOS.list_workflows(name="greet", status="SUCCESS", limit=10)
            assert found[-1].output == "Hello, Ada!"
            ```
        """
        return await statuses.list_workflows(
            self._database, status=status, name=name, id_prefix=id_prefix, since=since, until=until,
            parent_id=parent_id, unclaimable=unclaimable, limit=limit, after=after,
        )  # fmt: skip

    async def list_workflow_steps(self, workflow_id: str) -> list[WorkflowStep]:
        """The recorded steps of a workflow, in the order in which they began; empty when there is none, or no such workflow.

        Example:
            ```python
            @DBOS.workflow()
            async def nap() -> None:
                await DBOS.sleep(0.1)

            handle = await DBOS.start_workflow(nap)
            await handle.get_result()
            assert [(step.step, step.verb) for step in await DBOS.list_workflow_steps(handle.workflow_id)] == [("1", "sleep")]
            ```
        """
        return await statuses.list_workflow_steps(self._database, workflow_id)

    async def cancel_workflow(self, workflow_id: str) -> None:
        """Cancel a workflow, in whatever process it runs or waits. It ends within a second as CANCELLED.

        A workflow that has ended stays as it is, and children go on. Callers that wait for the result get
        `WorkflowCancelledError`. Raises `WorkflowNotFoundError` when there is no such workflow.

        Example:
            ```python
            @DBOS.workflow()
            async def waits() -> None:
                await DBOS.recv(timeout_seconds=None)

            handle = await DBOS.start_workflow(waits)
            await DBOS.cancel_workflow(handle.workflow_id)
            assert (await handle.get_status()).status == "CANCELLED"
            ```
        """
        await control.cancel(self._database, workflow_id)

    async def resume_workflow(self, workflow_id: str, *, application_version: str | None = None) -> WorkflowHandle[Any]:
        """Continue a cancelled or parked workflow after its last recorded step, in any executor that knows it.

        ``application_version`` (``None``: as before) is the version that may run the workflow from now on; it is also changed for
        a workflow that waits for an executor. A workflow that runs, or that has ended otherwise, stays as it is; for one that
        ended in SUCCESS or ERROR a warning in the log names the fork to make. Raises `WorkflowNotFoundError` when there is no such
        workflow.

        Example:
            ```python
            @DBOS.workflow()
            async def waits() -> str:
                return await DBOS.recv("word", timeout_seconds=None)

            handle = await DBOS.start_workflow(waits)
            await DBOS.cancel_workflow(handle.workflow_id)
            handle = await DBOS.resume_workflow(handle.workflow_id)
            await DBOS.send(handle.workflow_id, "back", "word")
            assert await handle.get_result() == "back"
            ```
        """
        await control.resume(self._database, workflow_id, application_version)
        return await self.retrieve_workflow(workflow_id)

    async def fork_workflow(
        self, workflow_id: str, start_step: int | str, *, application_version: str | None = None
    ) -> WorkflowHandle[Any]:
        """Start a copy of a workflow that continues from step ``start_step``; the original stays as it is.

        The copy has the recorded steps below ``start_step`` (a number of `list_workflow_steps`), the events and stream values of
        those steps, and every message that the original has not received by then. 1 runs everything again, the number after the
        last step repeats nothing. Where the original named itself, or something after itself, the copy may do the same.
        `SetWorkflowID` gives the copy an id, `SetWorkflowTimeout` a deadline. ``application_version`` (``None``: that of the
        original) says which executors may run it.

        Raises `WorkflowNotFoundError` when there is no original, `InvalidArgumentError` when ``start_step`` is not a step number
        or is beyond the number after the last step, and `WorkflowConflictError` when the id belongs to another workflow.

        Example:
            ```python
            @DBOS.workflow()
            async def order() -> str:
                drink = await DBOS.recv("drink")
                return f"{drink} and {await DBOS.recv('food')}"

            handle = await DBOS.start_workflow(order)
            await DBOS.send(handle.workflow_id, "tea", "drink")
            await DBOS.send(handle.workflow_id, "soup", "food")
            assert await handle.get_result() == "tea and soup"
            copy = await DBOS.fork_workflow(handle.workflow_id, 2)
            assert await copy.get_result() == "tea and soup"
            ```
        """
        return await fork.fork(self._database, workflow_id, start_step, application_version)

    async def delete_workflow(self, workflow_id: str) -> None:
        """Remove a workflow that has ended, with its steps, messages, events and streams; its children stay.

        Raises `WorkflowNotEndedError` when the workflow goes on or is parked, `WorkflowNotFoundError` when it does not exist.

        Example:
            ```python
            @DBOS.workflow()
            async def greet() -> str:
                return "hello"

            handle = await DBOS.start_workflow(greet)
            await handle.get_result()
            await DBOS.delete_workflow(handle.workflow_id)
            ```
        """
        await delete.delete(self._database, workflow_id)
