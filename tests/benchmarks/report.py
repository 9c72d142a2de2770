"""What is shown of a run: tables of medians, spreads and ratios; and the same figures, round by round, as JSON."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.harness import Outcome, Plan
from tests.benchmarks.targets import judge, ratio
from tests.benchmarks.workloads import MEASURES

PACKAGES = ("dbos_async", "asyncpg", "dbos", "redis", "nats-py", "uvloop")


def table(plan: Plan, outcome: Outcome) -> Table:
    """A row for each measure, a column for each peer: the median of all rounds, and the least and the most."""
    loop = "uvloop" if plan.uvloop else "asyncio"
    shown = Table(
        title=f"{plan.size} bytes, {plan.rounds} alternating rounds, {plan.amount} sizes, {loop}: median (least-most)"
    )
    shown.add_column("", no_wrap=True)
    shown.add_column("", no_wrap=True)
    for peer in plan.peers:
        shown.add_column(peer, justify="right", no_wrap=True)
    for name, measure in MEASURES.items():
        if measure.workload in plan.workloads:
            cells = [cell(outcome.figures.get(peer, {}).get(name)) for peer in plan.peers]
            shown.add_row(name, measure.unit, *cells)
    return shown


def ratios(plan: Plan, outcome: Outcome) -> Table:
    """A row for each measure, with what it is; a column for each other peer."""
    others = [peer for peer in plan.peers if peer != "ours"]
    shown = Table(title="how many times as good the median of ours is as that of each other")
    shown.add_column("", no_wrap=True)
    for peer in others:
        shown.add_column(peer, justify="right", no_wrap=True)
    shown.add_column("")
    for name, measure in MEASURES.items():
        if measure.workload in plan.workloads:
            shown.add_row(name, *(_ratio(outcome, name, peer) for peer in others), measure.title)
    return shown


def reasons(plan: Plan, outcome: Outcome) -> list[str]:
    """Why cells of the table are empty, a line for each reason."""
    lines: dict[tuple[str, str], list[str]] = {}
    for peer in plan.peers:
        for workload in plan.workloads:
            reason = outcome.reason(peer, workload)
            if reason:
                lines.setdefault((peer, reason), []).append(workload)
    return [f"{peer}: {', '.join(workloads)}: {reason}" for (peer, reason), workloads in lines.items()]


def show(console: Console, plan: Plan, outcome: Outcome) -> None:
    """Print the tables, what was aimed at, and why cells are empty."""
    console.print(table(plan, outcome))
    console.print(ratios(plan, outcome))
    for aim, found, is_met in judge(outcome):
        console.print(f"  {'met' if is_met else 'MISSED'}: {aim}: {_number(found)}", highlight=False)
    for line in reasons(plan, outcome):
        console.print(f"  {line}", highlight=False, markup=False)


def as_json(plan: Plan, outcome: Outcome) -> dict[str, Any]:
    """Everything, for a machine."""
    return {
        "bytes": plan.size,
        "rounds": plan.rounds,
        "sizes": plan.amount,
        "loop": "uvloop" if plan.uvloop else "asyncio",
        "figures": outcome.figures,
        "medians": {
            peer: {name: median(values) for name, values in figures.items()}
            for peer, figures in outcome.figures.items()
        },
        "times_as_good": {
            peer: {name: share for name in MEASURES if (share := ratio(outcome, name, peer)) is not None}
            for peer in plan.peers
            if peer != "ours"
        },
        "aims": [{"aim": str(aim), "found": found, "met": is_met} for aim, found, is_met in judge(outcome)],
        "skipped": outcome.skipped,
        "failed": outcome.failed,
    }


def machine() -> dict[str, Any]:
    """Where and by what it was measured."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpus": os.cpu_count(),
        "load_at_the_start": os.getloadavg()[0],
        "python": platform.python_version(),
        "packages": versions,
    }


def write(file: Path, found: dict[str, Any]) -> None:
    """Write it as JSON."""
    file.write_text(json.dumps(found, indent=1) + "\n")


def cell(figures: list[float] | None) -> str:
    """How the figures of all rounds are shown."""
    if not figures:
        return "-"
    middle, least, most = (_number(figure) for figure in (median(figures), min(figures), max(figures)))
    return f"{middle} ({least}-{most})"


def _number(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"


def _ratio(outcome: Outcome, measure: str, peer: str) -> str:
    share = ratio(outcome, measure, peer)
    return "-" if share is None else _number(share)
