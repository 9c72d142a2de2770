"""Studies of ours alone: ``python -m tests.benchmarks --study waiters,polling,executors,memory,tokens,wal,growth``.

Each is a module of this package with ``async def study(url, amount)``, which returns its figures by name, those that must not
be as problems. It has a process and a new database of its own: ``python -m tests.benchmarks.studies NAME URL AMOUNT``.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from rich.table import Table

from tests.benchmarks.harness import ROOT, end
from tests.benchmarks.report import cell
from tests.benchmarks.workloads import PROBLEM
from tests.support.databases import execute, new_database

STUDIES = {"waiters": None, "polling": None, "executors": None, "memory": None, "tokens": None, "wal": 1, "growth": 1}
"""How many rounds it takes at most: what is counted rather than timed is the same each time."""
STUDY_SECONDS = 1800.0


@dataclass
class Studied:
    """The figures of all rounds, by study and name; and what failed."""

    figures: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def medians(self) -> dict[str, dict[str, float]]:
        """Of each study and figure."""
        return {name: {what: median(of) for what, of in found.items()} for name, found in self.figures.items()}

    def as_json(self) -> dict[str, Any]:
        """Everything, for a machine."""
        return {"figures": self.figures, "medians": self.medians(), "failed": self.failed}


async def play(
    studies: Sequence[str], rounds: int, amount: str, uvloop: bool, url: str, tell: Callable[[str], None]
) -> Studied:
    """All rounds of all studies."""
    studied = Studied()
    for turn in range(rounds):
        for name in studies:
            most = STUDIES[name]
            if name in studied.failed or (most is not None and turn >= most):
                continue
            tell(f"round {turn + 1}: {name}")
            async with new_database(url, f"benchmark_{name}_{turn}_{os.getpid()}") as database:
                await execute(database, "checkpoint")
                await _turn(name, amount, uvloop, database, studied)
            tell(name)
    return studied


async def _turn(name: str, amount: str, uvloop: bool, url: str, studied: Studied) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.benchmarks.studies", name, url, amount, *(["--uvloop"] if uvloop else []),
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        async with asyncio.timeout(STUDY_SECONDS):
            output, errors = await process.communicate()
    finally:
        await end(process)
    if output:
        for what, figure in json.loads(output.splitlines()[-1]).items():
            studied.figures.setdefault(name, {}).setdefault(what, []).append(figure)
        problems = [what for what in studied.figures[name] if what.startswith(PROBLEM)]
        if problems:
            studied.failed[name] = "\n".join(problems)
    if process.returncode:
        studied.failed[name] = errors.decode().strip()[-3000:] or f"exit code {process.returncode}"


def table(studied: Studied, rounds: int) -> Table:
    """A row for each figure."""
    shown = Table(title=f"studies of ours, {rounds} rounds at most: median (least-most)")
    for column in ("study", "figure"):
        shown.add_column(column)
    shown.add_column("", justify="right")
    for name, found in studied.figures.items():
        for what, figures in found.items():
            shown.add_row(name, what, cell(figures))
    return shown


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=STUDIES)
    parser.add_argument("url")
    parser.add_argument("amount")
    parser.add_argument("--uvloop", action="store_true")
    given = parser.parse_args()
    study = importlib.import_module(f"tests.benchmarks.{given.name}").study(given.url, given.amount)
    run = importlib.import_module("uvloop").run if given.uvloop else asyncio.run
    print(json.dumps(run(study)), flush=True)


if __name__ == "__main__":
    main()
