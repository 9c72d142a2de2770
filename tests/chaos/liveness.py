"""Whether executors that live keep their workflows, and whether anything is stranded (W10): watched while everything goes on."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg

from tests.chaos.absences import Absences
from tests.chaos.direct import AWAY
from tests.chaos.facts import Tally

EVERY_SECONDS = 1.0
STRANDED_AFTER_SECONDS = 30.0

LIVES = "select number, at, what, launch, executor, by from chaos.lives where number > $1 - 100 order by number"
"""Numbers are given before the commit, so those of the last hundred are read again."""

PENDING = """
    select w.id, w.name, w.owner, w.attempt, e.executor_id as executor
    from dbos_async.workflows as w
    left join dbos_async.executors as e on e.id = w.owner and e.lease_until > '-infinity' where w.status = 'PENDING'
"""


class Begun(NamedTuple):
    """A run that has begun."""

    workflow: str
    attempt: int
    executor: str
    at: float


class Liveness:
    """Reads what triggers and runs have noted, and looks at the workflows that have not ended, each second."""

    def __init__(
        self, url: str, runs: Path, absences: Absences, is_calm: Callable[[str | None], bool], tally: Tally
    ) -> None:
        self.disturbed: set[str] = set()
        """Workflows that the driver cancels and resumes: they may run again."""
        self._url, self._absences, self._is_calm, self._tally = url, absences, is_calm, tally
        runs.touch()
        self._file, self._offset = runs, 0
        self._runs: defaultdict[str, list[Begun]] = defaultdict(list)
        self._appeared: dict[str, float] = {}
        self._known: set[int] = set()
        self._ages: dict[tuple[str, str, str | None, int], float] = {}
        self._looked_at = 0.0
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._reported: Counter[str] = Counter()

    async def watch(self) -> None:
        """Look each second, until cancelled."""
        try:
            while True:
                await asyncio.sleep(EVERY_SECONDS)
                await self.look()
        finally:
            if self._connection is not None:
                self._connection.terminate()

    async def look(self) -> dict[str, str]:
        """Look once; what is stranded so far, by workflow. Nothing when the database does not answer at once."""
        self._read_runs()
        try:
            if self._connection is None or self._connection.is_closed():
                self._connection = await asyncpg.connect(
                    self._url, timeout=2, server_settings={"application_name": "chaos", "statement_timeout": "900"}
                )
            self._read_lives(await self._connection.fetch(LIVES, max(self._known, default=0)))
            rows = await self._connection.fetch(PENDING)
        except (*AWAY, asyncpg.PostgresError):
            self._looked_at = 0.0
            return {}
        self._read_runs()
        return self._find_stranded(rows)

    def _read_runs(self) -> None:
        with self._file.open("rb") as file:
            file.seek(self._offset)
            lines = file.read()
        lines = lines[: lines.rfind(b"\n") + 1]  # The last one may not be complete yet.
        self._offset += len(lines)
        for line in lines.splitlines():
            begun = Begun(*json.loads(line))
            before = self._runs[begun.workflow]
            if before and begun.workflow not in self.disturbed:
                self._compare(before[-1], begun)
            before.append(begun)

    def _compare(self, one: Begun, other: Begun) -> None:
        # The answer to the claim of a frozen executor may come when the next run has begun: the attempts tell which was first.
        first, second = sorted((one, other), key=lambda begun: begun.attempt)
        if not self._absences.excuse(first.executor, min(one.at, other.at), max(one.at, other.at)):
            self._broken(
                "run twice",
                f"workflow {first.workflow!r} ran on {first.executor} (attempt {first.attempt}), which lived and had the "
                f"database, and {second.at - first.at:.1f} s later also on {second.executor} (attempt {second.attempt}).",
            )

    def _read_lives(self, rows: list[Any]) -> None:
        for number, at, what, launch, executor, by in rows:
            if number in self._known:
                continue
            self._known.add(number)
            if what == "appeared":
                self._appeared.setdefault(launch, at)
            elif not self._is_excused(launch, executor, at):
                self._broken("reaped", f"{executor}, which lived and had the database, was removed by {by}.")

    def _is_excused(self, launch: str, executor: str, at: float) -> bool:
        """Since it appeared its process has ended, or it was silent for too long not long ago."""
        return self._absences.excuse(executor, at, at) or self._absences.has_gone(
            executor, self._appeared.get(launch, 0.0), at
        )

    def _find_stranded(self, rows: list[Any]) -> dict[str, str]:
        now = time.monotonic()
        passed = now - self._looked_at if now - self._looked_at < 3 * EVERY_SECONDS else 0.0
        self._looked_at = now
        ages: dict[tuple[str, str, str | None, int], float] = {}
        stranded: dict[str, str] = {}
        for one, name, owner, attempt, executor in rows:
            if (what := self._trouble_of(one, name, owner, attempt, executor)) is None:
                continue
            key = (what, one, owner, attempt)
            ages[key] = self._ages.get(key, 0.0) + passed * self._is_calm(executor)
            stranded[one] = what
            if self._ages.get(key, 0.0) < STRANDED_AFTER_SECONDS <= ages[key]:
                self._broken("stranded", f"for {STRANDED_AFTER_SECONDS:.0f} calm seconds workflow {one!r} {what}.")
        self._ages = ages
        return stranded

    def _trouble_of(self, one: str, name: str, owner: str | None, attempt: int, executor: str | None) -> str | None:
        if owner is None:
            return "was claimed by nobody"
        if executor is None:
            return f"had an owner that does not exist or has left ({owner})"
        if name == "chaos" and not any(begun.attempt == attempt for begun in self._runs.get(one, ())):
            return f"was owned by {executor} and not run"
        return None

    def _broken(self, kind: str, sentence: str) -> None:
        """A violation; of each kind only the first ones, since one cause has many."""
        self._reported[kind] += 1
        if self._reported[kind] <= 8:
            self._tally.violations.append(f"W10: {sentence}")
