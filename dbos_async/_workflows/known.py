"""What a client hears when it starts a workflow that nobody can run. The start counts all the same: an executor may come later."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._workflows.registry import registered
from dbos_async.errors import DatabaseUnavailableError, InvalidCallError

log = logging.getLogger("dbos_async")

with load(__name__) as sql:
    KNOWN: Final = sql.statement("KNOWN", parallelism=1)


MAX_SECONDS: Final = 1.0
"""The start is committed: so long at most its caller waits for the answer."""


class KnownNames:
    """Asks at the first start of each name whether a live executor knows it, and warns if none does."""

    def __init__(self) -> None:
        self._asked: set[str] = set()

    async def warn_once(
        self, database: Database, name: str, version: str | None, args: Iterable[Any], kwargs: Mapping[str, Any]
    ) -> None:
        """Log a warning for a name that no live executor knows, or that this process knows with other arguments.

        It is called when the start is committed. So what keeps it from its answer is no error. It does not ask a second time, or
        each start would wait for it while something holds up the answer.
        """
        if name in self._asked:
            return
        self._asked.add(name)
        try:
            async with asyncio.timeout(MAX_SECONDS):
                answer = await database.call(KNOWN, [(name, version)], partition="")
        except (DatabaseUnavailableError, TimeoutError):
            return
        if not answer[0]["is_known"]:
            log.warning(
                "No live executor knows a workflow named %r%s: what is started waits until one does, "
                "and list_workflows(unclaimable=True) shows it.",
                name, f" of version {version!r}" if version else "",
            )  # fmt: skip
        if name in registered:
            try:
                registered[name].signature.bind(tuple(args), dict(kwargs))
            except InvalidCallError as problem:
                log.warning("The workflow %r will fail unless its executors have another version: %s", name, problem)
