"""Measures this library against others and against Postgres itself: ``python -m tests.benchmarks``.

    python -m tests.benchmarks --peer dbos,redis,nats --json found.json
    python -m tests.benchmarks --quick --only ping_pong,send_recv
    python -m tests.benchmarks --bytes 100 1000 --uvloop --url postgresql://…

Ours and the floor (raw asyncpg) are always measured. Without --url it brings a Postgres of its own, from dbos_async[embedded].
The peers need ``dbos``, ``redis`` and ``nats-py`` from PyPI, and the programs redis-server and nats-server; what is missing is
skipped, and the reason is told. A full round takes about a minute with DBOS, and a few seconds without.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.benchmarks.harness import MUST_BE_ON, Outcome, Plan, play, server, settings
from tests.benchmarks.peer import PEERS
from tests.benchmarks.report import as_json, machine, show, write
from tests.benchmarks.workloads import SIZES, WORKLOADS

ALWAYS = ("ours", "floor")


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
    parser.add_argument("--url", help="a Postgres to use, on which databases can be created")
    given = parser.parse_args(arguments)
    given.peers = [*ALWAYS, *_names(parser, given.peer, [peer for peer in PEERS if peer not in ALWAYS])]
    given.workloads = _names(parser, given.only, WORKLOADS) or list(WORKLOADS)
    if min(given.bytes) < 10:
        parser.error("a payload begins with its number, so it has at least 10 bytes")
    return given


def _names(parser: argparse.ArgumentParser, said: str, known: Any) -> list[str]:
    names = [name.strip() for name in said.split(",") if name.strip()]
    for name in names:
        if name not in known:
            parser.error(f"{name} is none of {', '.join(known)}")
    return list(dict.fromkeys(names))


def follow(console: Console, plan: Plan, url: str) -> Outcome:
    """Play it, and show how far it is."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("starting", total=plan.steps)

        def tell(what: str) -> None:
            if what in plan.workloads:
                progress.advance(bar)
            else:
                progress.update(bar, description=what)

        return asyncio.run(play(plan, url, tell))


def main(arguments: list[str] | None = None) -> int:
    given = parse(arguments)
    console = Console()
    if not console.is_terminal:
        console.width = 180  # Into a file or a pipe nothing is wrapped.
    with server(given.url) as url:
        told = asyncio.run(settings(url))
        console.print("Postgres " + ", ".join(f"{name} = {value}" for name, value in told.items()), highlight=False)
        found: dict[str, Any] = {"machine": machine(), "postgres": told, "runs": []}
        assert all(told[name] == "on" for name in MUST_BE_ON)
        failed = False
        for size in given.bytes:
            plan = Plan(given.peers, given.workloads, given.rounds, size, given.amount, given.uvloop)
            outcome = follow(console, plan, url)
            show(console, plan, outcome)
            found["runs"].append(as_json(plan, outcome))
            failed = failed or bool(outcome.failed)
    if given.json:
        write(given.json, found)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
