"""The medians as bars, one picture for all runs: a row of axes for each size of payload. Needs matplotlib."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from tests.benchmarks.workloads import MEASURES


def draw(file: Path, found: dict[str, Any]) -> None:
    """Throughput on the left, latency on the right, both logarithmic; the lines are least and most of all rounds."""
    try:
        plt: Any = importlib.import_module("matplotlib.pyplot")
    except ModuleNotFoundError:
        raise SystemExit("There is no picture without matplotlib: install it, or leave out --plot.") from None
    runs = found.get("runs", [])
    if not runs:
        raise SystemExit("There is no picture of studies: leave out --plot.")
    plt.switch_backend("agg")
    figure, grid = plt.subplots(len(runs), 2, figsize=(16, 6 * len(runs)), squeeze=False, width_ratios=(3, 2))
    for run, axes in zip(runs, grid, strict=True):
        for one, unit, what in zip(axes, ("/s", "ms"), ("operations a second", "milliseconds"), strict=True):
            _bars(one, run, unit)
            one.set_title(f"{what}, {run['bytes']} bytes, median of {run['rounds']} rounds, {run['loop']}")
    figure.tight_layout()
    figure.savefig(file)
    plt.close(figure)


def _bars(axes: Any, run: dict[str, Any], unit: str) -> None:
    names = [
        name
        for name, measure in MEASURES.items()
        if measure.unit == unit and any(name in figures for figures in run["figures"].values())
    ]
    width = 0.8 / max(1, len(run["figures"]))
    for place, (peer, medians) in enumerate(run["medians"].items()):
        there = [(at, name) for at, name in enumerate(names) if name in medians]
        rounds = run["figures"][peer]
        spread = [
            [medians[name] - min(rounds[name]) for _, name in there],
            [max(rounds[name]) - medians[name] for _, name in there],
        ]
        at = [at + place * width for at, _ in there]
        axes.bar(
            at,
            [medians[name] for _, name in there],
            width,
            yerr=spread,
            label=peer,
            color=f"C{place}",
            error_kw={"lw": 0.8},
        )
    axes.set_yscale("log")
    if names:
        axes.set_ylim(
            bottom=min(medians[name] for medians in run["medians"].values() for name in names if name in medians) / 3
        )
    axes.set_xticks([at + 0.4 for at in range(len(names))], names, rotation=30, ha="right")
    axes.legend()
