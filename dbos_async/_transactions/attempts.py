"""Repeats a transaction until it is committed, or has an error of its own.

conflict  The server has refused it for a serialization failure or a deadlock: it is repeated up to ``max_attempts`` times.
refusal   The server cannot do it now, for a reason that may be over later: it is repeated after a pause.
loss      The connection was lost. If that was during the commit, nobody knows whether it is committed. A step looks into its record
          before it is repeated; a transaction without a record cannot be repeated then.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio
import asyncpg

from dbos_async._database.database import Database
from dbos_async._database.outages import REFUSED, Meaning, backoff_seconds, meaning_of
from dbos_async._logs import text_of
from dbos_async._runs.running_step import Tries
from dbos_async._runs.start_options import assigned
from dbos_async._runs.transaction import current_transaction, stop_as_lost_inside
from dbos_async._transactions.opened import Opened, Source, TransactionOptions, causes, is_conflict, is_full, reason
from dbos_async._transactions.recording import TransactionStep
from dbos_async.errors import DatabaseUnavailableError, DBOSError, StepTimeoutError, TransactionError

log = logging.getLogger("dbos_async")

MAX_PROBLEM: Final = 500
"""How much of the text of an error the list of steps shows."""

MAX_CONFLICT_PAUSE_SECONDS: Final = 0.2

SPOILING: Final = (asyncpg.InsufficientPrivilegeError, asyncpg.ReadOnlySQLTransactionError)
"""How the server refuses a record after a body that has changed the role or the access mode."""

MAX_REFUSALS: Final = 3
"""After so many refusals the body is suspected. Before, a server that is no primary any more is the likelier reason."""

MIN_SUCCESSES: Final = 2
"""So many records without the body must succeed in a row. One may succeed since the cause, such as a lock, is just over."""


class _LossError(Exception):
    """The connection was lost, or the server cannot do it now."""

    def __init__(
        self, error: BaseException | None, *, may_have_committed: bool, refused_output: str | None = None
    ) -> None:
        super().__init__()
        self.error, self.may_have_committed = error, may_have_committed
        self.refused_output = refused_output
        """The output that the server has refused to record."""
        self.reason = "the connection was closed" if error is None else reason(error)


class _FoundError(Exception):
    """The step is recorded already."""


class Attempts:
    """One call of a transaction, with all attempts to execute it."""

    def __init__(
        self, database: Database, name: str, source: Source, options: TransactionOptions, step: TransactionStep | None
    ) -> None:
        self._database, self._name, self._source, self._options, self._step = database, name, source, options, step
        self._ticket = assigned.get()
        self._ticket_was_used = self._ticket is not None and self._ticket.is_used
        self._conflicts = self._losses = self._refusals = self._successes = 0
        self._give_up_at = time.monotonic() + database.connect_timeout_seconds

    async def run(self, body: Callable[[], Awaitable[Any]], encode: Callable[[Any], str] | None) -> Any:
        """What the body returns, once its transaction is committed. A step's is encoded, and recorded if it may have written."""
        while True:
            if self._step is not None and (self._conflicts or self._losses) and await self._step.look():
                return None
            if self._ticket is not None:
                self._ticket.is_used = self._ticket_was_used  # what it was used for was rolled back
            try:
                return await self._once(await self._open(), body, encode)
            except _FoundError:
                self._losses += 1  # and so it is looked for
            except _LossError as loss:
                await self._suspect_body(loss)
                await self._pause_after_loss(loss.reason, may_have_committed=loss.may_have_committed)
            except Exception as error:
                if not is_conflict(error):
                    raise
                await self._pause_after_conflict(error)

    async def _open(self) -> Opened:
        while True:
            try:
                seconds_left = None if self._step is not None else max(self._give_up_at - time.monotonic(), 0.0)
                return await self._source.open(self._database, self._name, self._options, seconds_left)
            except DBOSError:
                raise
            except Exception as error:
                if not self._source.may_come_back(error):
                    raise
                await self._pause_after_loss(reason(error), may_have_committed=False)

    async def _once(
        self, opened: Opened, body: Callable[[], Awaitable[Any]], encode: Callable[[Any], str] | None
    ) -> Any:
        step = self._step
        try:
            try:
                value = await self._in_time(opened, body)
                if step is not None and step.was_cancelled:
                    raise asyncio.CancelledError
                if encode is not None:
                    value = encode(value)
                if step is None or self._options.read_only:
                    await self._commit(opened, is_checked=False)
                    return value
                with step.run.inside(step.verb, step.task):
                    await step.run.check_may_act(step.verb, is_begun=True)
                    await self._record(opened, step, value)
                    await self._commit(opened, is_checked=True)
                step.committed = value
                return value
            except _LossError:
                raise
            except Exception as error:
                await self._roll_back(opened, error)
                raise
        finally:
            opened.is_over = True
            opened.leave()

    async def _in_time(self, opened: Opened, body: Callable[[], Awaitable[Any]]) -> Any:
        seconds, late = self._options.timeout_seconds, None
        token = current_transaction.set(opened)
        try:
            with anyio.move_on_after(seconds) as scope:
                try:
                    value = await body()
                    opened.is_over = True
                    if not opened.is_lost:
                        await opened.finish_body()
                    if not scope.cancel_called:
                        return value
                except Exception as error:
                    if not scope.cancel_called:
                        raise
                    late = error
        finally:
            opened.is_over = True
            current_transaction.reset(token)
        assert seconds is not None
        # The time is over, whatever the body made of its cancellation.
        raise StepTimeoutError(self._name, seconds) from late

    async def _record(self, opened: Opened, step: TransactionStep, text: str) -> None:
        try:
            outcome = await step.record_inside(await opened.driver(), text)
        except DBOSError:
            raise
        except Exception as error:
            if opened.is_lost_by(error) or is_conflict(error):
                raise
            if isinstance(error, asyncpg.InterfaceError):
                raise self._busy() from error
            if (
                not isinstance(error, (asyncpg.UniqueViolationError, *REFUSED))
                and meaning_of(error) is not Meaning.REFUSED
            ):
                raise
            await self._roll_back(opened, error)
            if isinstance(error, REFUSED):
                opened.raw.terminate()  # a new session may be allowed to do it
            raise _LossError(error, may_have_committed=False, refused_output=text) from error
        if outcome == "done":
            return
        await opened.roll_back()
        step.forget()
        if outcome == "lost":
            await stop_as_lost_inside(step.run, f"the transaction {self._name!r}")
        raise _FoundError

    async def _suspect_body(self, loss: _LossError) -> None:
        """Raise if the body is to blame: the record is refused again and again, and not in transactions without the body."""
        step, output = self._step, loss.refused_output
        if step is None or output is None or not isinstance(loss.error, SPOILING):
            return
        self._refusals += 1
        if self._refusals < MAX_REFUSALS:
            return
        self._successes = self._successes + 1 if await self._succeeds_without_body(step, output) else 0
        if self._successes >= MIN_SUCCESSES:
            raise TransactionError(
                f"The body of the transaction {self._name!r} has made its record impossible ({loss.reason}): it must "
                "not change the role or the access mode of its transaction."
            ) from loss.error

    async def _succeeds_without_body(self, step: TransactionStep, output: str) -> bool:
        """Whether the record succeeds in a transaction of its own, which is rolled back."""
        while True:
            opened = await self._open()
            try:
                return await step.record_inside(await opened.driver(), output) == "done"
            except Exception as error:
                if not opened.is_lost_by(error):
                    return False
                why = reason(error)
            finally:
                step.forget()
                opened.is_over = True
                opened.leave()  # which rolls back
            # An engine may hand out the connection again that was just ended.
            await self._pause_after_loss(why, may_have_committed=False)

    async def _commit(self, opened: Opened, *, is_checked: bool) -> None:
        if opened.is_lost:
            raise _LossError(None, may_have_committed=False)
        try:
            await opened.commit(is_checked=is_checked)
        except Exception as error:
            if opened.is_lost_by(error):
                raise _LossError(error, may_have_committed=True) from error
            if any(isinstance(each, asyncpg.InterfaceError) for each in causes(error)):
                raise self._busy() from error
            if not is_full(error):
                raise
            await self._roll_back(opened, error)
            raise _LossError(error, may_have_committed=False) from error

    def _busy(self) -> TransactionError:
        return TransactionError(
            f"A task of the transaction {self._name!r} still uses its connection: await the task in the body."
        )

    async def _roll_back(self, opened: Opened, error: Exception) -> None:
        """Roll back after an error. If the connection turns out to be lost, the error comes from that."""
        if opened.is_mixed_up_by(error):
            opened.raw.terminate()
        is_lost = opened.is_lost_by(error) or not await opened.roll_back()
        if self._step is not None:
            self._step.forget()
        if is_lost and not isinstance(error, StepTimeoutError):
            raise _LossError(error, may_have_committed=False) from error

    async def _pause_after_conflict(self, error: Exception) -> None:
        self._conflicts += 1
        if self._conflicts >= self._options.max_attempts:
            if self._conflicts > 1:
                error.add_note(f"The transaction {self._name!r} was tried {self._conflicts} times.")
            raise error
        pause = min(0.005 * 2.0**self._conflicts, MAX_CONFLICT_PAUSE_SECONDS) * random.uniform(0.2, 1.0)
        await self._pause(pause, f"{type(error).__name__}: {text_of(error)}")

    async def _pause_after_loss(self, why: str, *, may_have_committed: bool) -> None:
        if self._step is None:
            seconds_left = self._give_up_at - time.monotonic()
            if may_have_committed or seconds_left <= 0:
                waited = self._database.connect_timeout_seconds - seconds_left
                raise DatabaseUnavailableError(round(waited, 1), may_have_committed, why)
        self._losses += 1
        if self._losses in (1, 10) or self._losses % 100 == 0:
            what = "may have been committed" if may_have_committed else "was not committed"
            count = "" if self._losses == 1 else f" for the {self._losses}th time"
            log.warning("The transaction %r %s and is repeated%s (%s).", self._name, what, count, why)
        await self._pause(backoff_seconds(self._losses), why)

    async def _pause(self, seconds: float, problem: str) -> None:
        step = self._step
        if step is not None:
            step.tries = Tries(self._conflicts + self._losses + 1, time.monotonic() + seconds, problem[:MAX_PROBLEM])
        await anyio.sleep(seconds)
        if step is not None and step.tries is not None:
            step.tries = step.tries._replace(next_at=None)
