"""The verbs of `DBOS` and `DBOSClient` for many workflows at once: cancel, resume and delete them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from dbos_async._database.database import Database
from dbos_async._workflows import delete, families
from dbos_async._workflows.delete import DeleteOutcome
from dbos_async._workflows.families import CancelOutcome, ResumeOutcome


class BulkVerbs(ABC):
    """Many workflows at once, for callers anywhere."""

    @property
    @abstractmethod
    def _database(self) -> Database:
        """The database that the verbs use; raises when it may not be used from here."""

    async def cancel_workflows(
        self, workflow_ids: Iterable[str], *, children: bool = False, cleanup_seconds: float | None = None
    ) -> dict[str, CancelOutcome]:
        """Cancel these workflows; with ``children`` also what they have started, and what that has started.

        With ``cleanup_seconds`` each has so long to clean up, as with `cancel_workflow`.

        Returns what became of each: ``"cancelled"`` by this call, ``"ended"`` before it, or ``"unknown"``, since there is no such
        workflow. The ids are in their order, each once, and with ``children`` those of the descendants follow. The descendants are
        found as by `cancel_workflow`.

        They are cancelled some at a time. A call that is interrupted has cancelled some of them, and goes on when it is repeated.
        In a workflow it is a step, so a replay returns what is recorded. A workflow that cancels itself is cancelled last.

        Raises `InvalidArgumentError` when an argument cannot be used; nothing is cancelled then.

        Example:
            ```python
            @DBOS.workflow()
            async def waits() -> None:
                await DBOS.recv(timeout_seconds=None)

            @DBOS.workflow()
            async def starts_two() -> None:
                for number in (1, 2):
                    with SetWorkflowID(f"{DBOS.workflow_id}-{number}"):
                        await DBOS.start_workflow(waits)

            with SetWorkflowID("tour"):
                await (await DBOS.start_workflow(starts_two)).get_result()
            outcomes = await DBOS.cancel_workflows(["tour", "nobody"], children=True)
            assert outcomes == {"tour": "ended", "nobody": "unknown", "tour-1": "cancelled", "tour-2": "cancelled"}
            ```
        """
        return await families.cancel_all(
            self._database, workflow_ids, children=children, cleanup_seconds=cleanup_seconds
        )

    async def resume_workflows(
        self, workflow_ids: Iterable[str], *, application_version: str | None = None
    ) -> dict[str, ResumeOutcome]:
        """Continue these workflows after their last recorded steps, as `resume_workflow` does with one.

        Returns what became of each: ``"resumed"``, ``"pending"`` (it goes on anyway), ``"ended"`` in SUCCESS or ERROR, or
        ``"unknown"``, since there is no such workflow. The ids are in their order, each once. Of an interrupted call the same is
        true as of `cancel_workflows`.

        Raises `InvalidArgumentError` when an argument cannot be used; nothing is resumed then.

        Example:
            ```python
            @DBOS.workflow()
            async def waits() -> None:
                await DBOS.recv(timeout_seconds=None)

            ids = [(await DBOS.start_workflow(waits)).workflow_id for _ in range(2)]
            outcomes = await DBOS.cancel_workflows(ids)
            again = await DBOS.resume_workflows([each for each in outcomes if outcomes[each] == "cancelled"])
            assert set(again.values()) == {"resumed"}
            ```
        """
        return await families.resume_all(self._database, workflow_ids, application_version)

    async def delete_workflows(
        self, workflow_ids: Iterable[str], *, children: bool = False
    ) -> dict[str, DeleteOutcome]:
        """Remove those of these workflows that have ended, with their steps, messages, events and streams.

        With ``children`` a workflow is removed with what it has started, and what that has started. It stays with all of them while
        one of them has not ended.

        Returns what became of each: ``"deleted"``, ``"not ended"`` (it is as it was), or ``"unknown"``, since there is no such
        workflow. The ids are in their order, each once, and those of the descendants that were deleted follow. Of an interrupted
        call the same is true as of `cancel_workflows`.

        Raises `InvalidArgumentError` when an argument cannot be used, and `DatabaseUnavailableError` when a transaction that may
        still write to one of them stays open for 30 seconds; nothing is deleted then.

        Example:
            ```python
            @DBOS.workflow()
            async def greet() -> str:
                return "hello"

            handle = await DBOS.start_workflow(greet)
            await handle.get_result()
            outcomes = await DBOS.delete_workflows([handle.workflow_id, "nobody"])
            assert outcomes == {handle.workflow_id: "deleted", "nobody": "unknown"}
            ```
        """
        return await delete.delete_all(self._database, workflow_ids, children=children)
