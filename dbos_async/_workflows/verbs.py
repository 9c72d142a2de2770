"""The verbs of `DBOS` and `DBOSClient` for workflows as a whole: find, list, cancel, resume, fork and delete them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from dbos_async._checks import check_flag
from dbos_async._workflows import control, delete, families, fork, step_list
from dbos_async._workflows import status as statuses
from dbos_async._workflows.bulk_verbs import BulkVerbs
from dbos_async._workflows.handle import WorkflowHandle
from dbos_async._workflows.status import WorkflowStatus
from dbos_async._workflows.step_list import WorkflowStep


class WorkflowVerbs(BulkVerbs):
    """Workflows as a whole, for callers anywhere."""

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
        status: str | Sequence[str] | None = None,
        name: str | Sequence[str] | None = None,
        id_prefix: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        parent_id: str | None = None,
        unclaimable: bool | None = None,
        patch: str | None = None,
        without_patch: str | None = None,
        limit: int = 100,
        after: str | None = None,
        workflow_id: str | Sequence[str] | None = None,
        application_version: str | Sequence[str] | None = None,
        newest_first: bool = False,
        payloads: bool = True,
        cursor: str | None = None,
    ) -> list[WorkflowStatus]:
        """The workflows that fit every filter, the oldest first, at most ``limit``. ``None`` as a filter fits all.

        ``status``, ``name``, ``workflow_id`` and ``application_version`` take one text or several, of which one must fit. ``since``
        and ``until`` bound when a workflow was created and must have a time zone. ``parent_id`` is the workflow that started it.
        ``unclaimable=True`` lists those that wait for an executor although no live one can run them, because none knows their name
        or has their ``application_version``. ``patch`` is a name for which `DBOS.patched` has answered true in them, and
        ``without_patch`` one for which it has not. ``payloads=False`` leaves ``input``, ``output`` and ``error`` out.

        ``after`` is the last id of the page before, and this process remembers where that page ended; ``cursor`` is the ``cursor``
        of its last row, for any process. The pages show each workflow once, also those whose start is committed up to an hour late
        and stands before what was shown: these come when the others have been shown. Oldest first, new ones follow; newest first,
        the list ends with what was there when it began.

        Raises `InvalidArgumentError` when an argument cannot be used, also for an ``after`` that is not known any more.

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
        fits = statuses.workflow_filter(
            ids=workflow_id, status=status, name=name, application_version=application_version, id_prefix=id_prefix,
            since=since, until=until, parent_id=parent_id, unclaimable=unclaimable, patch=patch, without_patch=without_patch,
        )  # fmt: skip
        return await statuses.list_workflows(
            self._database, fits, newest_first=newest_first, payloads=payloads, limit=limit, after=after, cursor=cursor
        )

    async def list_workflow_steps(
        self,
        workflow_id: str,
        *,
        limit: int | None = None,
        after: str | None = None,
        newest_first: bool = False,
        payloads: bool = True,
    ) -> list[WorkflowStep]:
        """The steps of a workflow, in the order in which they began; empty when there is none, or no such workflow.

        Steps that run, and waits for the result of another workflow, are not recorded yet. They are listed at once in the process
        that runs the workflow, and elsewhere when they have lasted for some seconds or are tried again, the oldest 1,000 of each
        executor.

        With ``limit`` or ``after`` (the ``step`` of the last one of the page before) the steps come in pages, task by task: those
        of the main task, then those of each further task. ``payloads=False`` leaves ``output`` and ``error`` out.

        Raises `InvalidArgumentError` when an argument cannot be used.

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
        return await step_list.list_workflow_steps(
            self._database, workflow_id, newest_first=newest_first, payloads=payloads, limit=limit, after=after
        )

    async def cancel_workflow(
        self, workflow_id: str, *, children: bool = False, cleanup_seconds: float | None = None
    ) -> bool:
        """Cancel a workflow, in whatever process it runs or waits. It ends within a second as CANCELLED.

        Returns False if the workflow had ended before; it stays as it is. Callers that wait for the result get
        `WorkflowCancelledError`.

        Its children go on. With ``children=True`` they are cancelled, too: all that it has started, what that has started, and on,
        also where those in between have ended, or start something at this very moment. A workflow that it has found by its id was
        started by another one, and a fork by none. It returns when all of them are cancelled; a call that is interrupted has
        cancelled some of them, and goes on when it is repeated. A workflow that cancels its own family is cancelled last.

        With ``cleanup_seconds`` (``None`` and 0: no time) a workflow that has begun gets so long to clean up, and this call returns
        at once. The body sees `asyncio.CancelledError` where it is, or at its next step, and its verbs and steps go on working. If
        it lets the cancellation pass, the workflow ends as CANCELLED; if it returns, as SUCCESS. When the time is over it is
        cancelled as without it. All this is on record: after a crash the clean-up goes on. With ``children=True`` each has that
        time, and what they start to clean up goes on.

        Raises `WorkflowNotFoundError` when there is no such workflow, and with ``children=True`` `DatabaseUnavailableError` when a
        transaction in which a workflow may be starting another one stays open for 30 seconds.

        Example:
            ```python
            @DBOS.workflow()
            async def waits() -> None:
                await DBOS.recv(timeout_seconds=None)

            handle = await DBOS.start_workflow(waits)
            assert await DBOS.cancel_workflow(handle.workflow_id)
            assert (await handle.get_status()).status == "CANCELLED"
            ```
        """
        if check_flag(children, "children"):
            return await families.cancel_family(self._database, workflow_id, cleanup_seconds)
        return await control.cancel(self._database, workflow_id, cleanup_seconds)

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
        last step repeats nothing. Where a copied step named the original, or something after it, the copy may name itself; the
        messages, events and stream values that it takes over keep their topics and keys.
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

    async def delete_workflow(self, workflow_id: str, *, children: bool = False) -> None:
        """Remove a workflow that has ended, with its steps, messages, events and streams.

        Its children stay. With ``children=True`` they are removed with it, and what they have started, and on: the children first,
        so a call that is interrupted can be repeated.

        Raises `WorkflowNotEndedError` when the workflow goes on or is parked, or one of those that would go with it: it names that
        one, and nothing is removed. Raises `WorkflowNotFoundError` when the workflow does not exist.

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
        await delete.delete(self._database, workflow_id, children=children)
