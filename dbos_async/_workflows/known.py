"""What a client hears when it starts a workflow that nobody can run. The start counts all the same: an executor may come later."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._workflows.registry import registered
from dbos_async.errors import InvalidCallError

log = logging.getLogger("dbos_async")

with load(__name__) as sql:
    KNOWN: Final = sql.statement("KNOWN", parallelism=1)


class KnownNames:
    """Asks at the first start of each name whether a live executor knows it, and warns if none does."""

    def __init__(self) -> None:
        self._asked: set[str] = set()

    async def warn_once(
        self, database: Database, name: str, version: str | None, args: Iterable[Any], kwargs: Mapping[str, Any]
    ) -> None:
        """Log a warning for a name that no live executor knows, or that this process knows with other arguments."""
        if name in self._asked:
            return
        self._asked.add(name)
        try:
            answer = await database.call(KNOWN, [(name, version)], partition="")
        except BaseException:
            self._asked.discard(name)
            raise
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
