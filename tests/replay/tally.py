"""Verdicts as text: a tally by kind, and every program that did not replay to the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tests.replay.judge import DIFFERENT, OUTCOMES, PARKED, SAME, Verdict
from tests.replay.text import text_of


def table(verdicts: Iterable[Verdict]) -> str:
    """How many programs of each kind came out how."""
    counts: dict[str, Counter[str]] = {}
    crashes: Counter[str] = Counter()
    for verdict in verdicts:
        kind = verdict.program["kind"]
        counts.setdefault(kind, Counter())[verdict.outcome] += 1
        crashes[kind] += verdict.crashes
    counts["all"] = sum(counts.values(), Counter())
    crashes["all"] = crashes.total()
    lines = [f"{'kind':22}{'programs':>10}{'crashes':>10}" + "".join(f"{outcome:>11}" for outcome in OUTCOMES)]
    for kind, count in counts.items():
        row = "".join(f"{count[outcome] or '':>11}" for outcome in OUTCOMES)
        lines.append(f"{kind:22}{count.total():>10}{crashes[kind]:>10}{row}")
    return "\n".join(lines)


def story(verdict: Verdict) -> str:
    """A program, and what became of it."""
    return "\n".join(
        [text_of(verdict.program), "", f"{verdict.outcome} after {verdict.crashes} crashes", *verdict.reasons]
    )


def stories(verdicts: list[Verdict], most: int) -> str:
    """So many of the programs that did not come out the same in full, the different ones first; the others in a line each."""
    found = sorted(
        (v for v in verdicts if v.outcome != SAME), key=lambda v: (v.outcome != DIFFERENT, v.outcome == PARKED)
    )
    lines = [f"{'=' * 100}\n{story(verdict)}" for verdict in found[:most]]
    lines += [
        f"{verdict.outcome}: {verdict.program['kind']} {verdict.program['seed']}: {_short(verdict.reasons)}"
        for verdict in found[most : most + 100]
    ]
    return "\n".join(lines)


def _short(reasons: list[str]) -> str:
    return " | ".join(reason.splitlines()[0][:160] for reason in reasons[:2])
