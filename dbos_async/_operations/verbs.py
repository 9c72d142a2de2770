"""The verbs of `DBOS` and `DBOSClient` for operators: counts, executors, one workflow as a conversation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime, timedelta

from dbos_async._database.database import Database
from dbos_async._operations import counts, describe, purge
from dbos_async._operations.counts import ExecutorStatus, MessageCount, WorkflowCount
from dbos_async._operations.description import WorkflowDescription
from dbos_async._operations.purge import PER_SECOND, PurgeResult
from dbos_async._workflows.delete import ENDED
from dbos_async._workflows.status import workflow_filter


class OperatingVerbs(ABC):
    """What operators ask, for callers anywhere."""

    @property
    @abstractmethod
    def _database(self) -> Database:
        """The database that the verbs use; raises when it may not be used from here."""

    async def count_workflows(
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
        workflow_id: str | Sequence[str] | None = None,
        application_version: str | Sequence[str] | None = None,
    ) -> list[WorkflowCount]:
        """How many workflows fit every filter, by name and status. The filters are those of `list_workflows`.

        It reads every workflow that fits: 100,000 take some tenths of a second.

        Raises `InvalidArgumentError` when an argument cannot be used.

        Example:
            ```python
            @DBOS.workflow(name="greet")
            async def greet() -> str:
                return "Hello!"

            await greet()
            (counted,) = await DBOS.count_workflows(name="greet")
            assert (counted.status, counted.count) == ("SUCCESS", 1)
            ```
        """
        fits = workflow_filter(
            ids=workflow_id, status=status, name=name, application_version=application_version, id_prefix=id_prefix,
            since=since, until=until, parent_id=parent_id, unclaimable=unclaimable, patch=patch, without_patch=without_patch,
        )  # fmt: skip
        return await counts.count_workflows(self._database, fits)

    async def count_messages(self) -> list[MessageCount]:
        """How many messages wait for workflows that have not ended, and how many were rejected, by topic.

        Example:
            ```python
            @DBOS.workflow()
            async def wait_for_money() -> int | None:
                return await DBOS.recv("money", timeout_seconds=None)

            handle = await DBOS.start_workflow(wait_for_money)
            await DBOS.send(handle.workflow_id, "later", "greeting")
            (counted,) = await DBOS.count_messages()
            assert (counted.topic, counted.waiting, counted.rejected) == ("greeting", 1, 0)
            ```
        """
        return await counts.count_messages(self._database)

    async def list_executors(self) -> list[ExecutorStatus]:
        """The executors, the oldest first, and those that have gone without giving their workflows back.

        Example:
            ```python
            (executor,) = await DBOS.list_executors()
            assert executor.is_live
            ```
        """
        return await counts.list_executors(self._database)

    async def describe_workflow(
        self, workflow_id: str, *, limit: int = 100, before: str | None = None
    ) -> WorkflowDescription:
        """One workflow as a conversation: its last ``limit`` steps and with whom, its messages, and what it waits for now.

        ``before`` is the ``cursor`` of a description: then the steps are those before. Raises `WorkflowNotFoundError` when there
        is no such workflow, and `InvalidArgumentError` when an argument cannot be used.

        Example:
            ```python
            @DBOS.workflow()
            async def order() -> str | None:
                return await DBOS.recv("paid", timeout_seconds=None)

            handle = await DBOS.start_workflow(order)
            while not (found := await DBOS.describe_workflow(handle.workflow_id)).waits:
                await asyncio.sleep(0.01)
            assert found.waits[0].what == "a message about 'paid'"
            ```
        """
        return await describe.describe_workflow(self._database, workflow_id, limit, before)

    async def purge(
        self,
        older_than: timedelta | float,
        *,
        status: str | Sequence[str] = ENDED,
        name: str | Sequence[str] | None = None,
        limit: int | None = None,
        dry_run: bool = False,
        per_second: int = PER_SECOND,
    ) -> PurgeResult:
        """Remove the workflows that ended longer ago than ``older_than``, a ``timedelta`` or seconds by the clock of the database.

        Each is removed whole, as by `delete_workflow`: with its steps, messages, events and streams. All others stay: those that
        run, wait or are parked, and the children and parents of removed ones. ``status`` and ``name`` (one or several, ``None``:
        all) choose among those that have ended, and ``limit`` (``None``: none) is how many are removed at most. With ``dry_run``
        they are counted only.

        It goes on in small transactions, at most ``per_second`` workflows in a second, and others may work meanwhile: a workflow
        that is resumed or written to at this very moment is left. It is also left if a transaction that stays open may still write
        to it, which it may if it began before the workflow had ended for an hour; `PurgeResult` says how many were left, and why.
        A purge that is interrupted has removed some of them, and goes on when it is repeated. An id that was removed is free again:
        a start under it begins anew.

        Raises `InvalidArgumentError` when an argument cannot be used, `DatabaseUnavailableError` when the database does not answer
        in time or refuses to remove a workflow, and `InvalidValueError` when a foreign key of yours stands against that.

        Example:
            ```python
            @DBOS.workflow(name="greet")
            async def greet() -> str:
                return "Hello!"

            await greet()
            assert (await DBOS.purge(timedelta(days=30))).count == 0
            assert (await DBOS.purge(0, name="greet", dry_run=True)).count == 1
            assert (await DBOS.purge(0, name="greet")).count == 1
            ```
        """
        old = purge.Old.of(older_than, status, name)
        return await purge.purge(self._database, old, limit=limit, dry_run=dry_run, per_second=per_second)
