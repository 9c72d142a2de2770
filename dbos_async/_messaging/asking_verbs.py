"""The verbs of `DBOS` and `DBOSClient` that ask: send a question to a workflow, and wait for its answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, TypeVar, overload
from uuid import UUID

from dbos_async._database.database import Database
from dbos_async._messaging import answer as answer  # noqa: PLC0414  # lets an `Asked` be answered
from dbos_async._messaging import ask
from dbos_async.keys import Question

Q = TypeVar("Q")
A = TypeVar("A")


class AskingVerbs(ABC):
    """Questions and their answers, for callers anywhere."""

    @property
    @abstractmethod
    def _database(self) -> Database:
        """The database that the verbs use; raises when it may not be used from here."""

    async def ask(
        self,
        workflow_id: str,
        question: Question[Q, A],
        request: Q,
        *,
        timeout_seconds: float | None = 60,
        idempotency_key: str | None = None,
    ) -> A:
        """Send a question to a workflow, and return its answer.

        The question is a message: the workflow receives it by `DBOS.recv_envelope` with the same `Question`, and answers by
        `Asked.answer` or `Asked.refuse`. The first answer counts. A workflow asks exactly once, however often it is replayed; a
        step asks at least once. Asking again with the same ``idempotency_key`` (outside workflows also `SetWorkflowID`) asks
        nothing anew and returns the same answer.

        Raises `AskTimeoutError` (a ``TimeoutError``) without an answer after ``timeout_seconds`` (``None`` waits forever); the
        question stays, and `DBOS.get_answer` returns the answer later. In a workflow the time counts from the first wait, by the
        clock of the database, also across restarts. Raises `RefusedError` when the workflow refuses, `NotAnsweredError` at once
        when it has ended without an answer, `InvalidAnswerError` when the answer does not fit the answer type. As for `DBOS.send`,
        an unknown workflow raises `WorkflowNotFoundError` and a request that does not fit raises `InvalidMessageError`; then
        nothing is stored. Outside workflows it raises `DatabaseUnavailableError` when the database cannot be reached for
        ``connect_timeout_seconds``.

        Example:
            ```python
            QUOTE = Question("quote", str, int)

            @DBOS.workflow()
            async def shop() -> None:
                asked = await DBOS.recv_envelope(QUOTE)
                if asked is not None:
                    await asked.answer(100 * len(asked.payload))

            handle = await DBOS.start_workflow(shop)
            assert await DBOS.ask(handle.workflow_id, QUOTE, "a widget") == 800
            ```
        """
        found: A = await ask.ask(self._database, workflow_id, question, request, timeout_seconds, idempotency_key)
        return found

    @overload
    async def get_answer(
        self, message_id: UUID | str, question: Question[Any, A], timeout_seconds: float | None = 60
    ) -> A: ...
    @overload
    async def get_answer(
        self, message_id: UUID | str, question: None = None, timeout_seconds: float | None = 60
    ) -> Any: ...
    async def get_answer(
        self,
        message_id: UUID | str,
        question: Question[Any, Any] | None = None,
        timeout_seconds: float | None = 60,
    ) -> Any:
        """The answer to a question that was asked before, by whomever; waits for it.

        ``message_id`` is the id of the question, as `AskTimeoutError` and `DBOS.list_messages` have it. Without a ``question``
        the answer comes as plain JSON. In a workflow what came is recorded.

        Raises `MessageNotFoundError` when no message has this id, else what `DBOS.ask` raises: `AskTimeoutError`,
        `RefusedError`, `NotAnsweredError` and `InvalidAnswerError`. ``timeout_seconds=None`` waits forever.

        Example:
            ```python
            QUOTE = Question("quote", str, int)

            @DBOS.workflow()
            async def slow_shop() -> None:
                asked = await DBOS.recv_envelope(QUOTE)
                await DBOS.sleep(0.2)
                if asked is not None:
                    await asked.answer(800)

            handle = await DBOS.start_workflow(slow_shop)
            try:
                await DBOS.ask(handle.workflow_id, QUOTE, "a widget", timeout_seconds=0.05)
            except AskTimeoutError as late:
                assert await DBOS.get_answer(late.message_id, QUOTE) == 800
            ```
        """
        return await ask.get_answer(self._database, message_id, question, timeout_seconds)
